package logs

// Append is one message of the owner of a log to another copy of the log.
type Append struct {
	Key   Key
	Epoch uint64
	// Offset is the start of Records in the log. It is at most the length of the copy.
	Offset int64
	// Records are whole records of output, encoded as in a segment.
	Records []byte
	// Cut removes the bytes of the copy after Offset first. They are from a former owner, and no
	// reader has seen them.
	Cut bool
	// Reset removes everything that the copy has first. It is set for a copy that did not belong to
	// the log before.
	Reset bool
	// Visible is the owner's watermark.
	Visible int64
	// Incarnation is that of the copy that this append continues or, with Cut or Reset, begins.
	// Former is the incarnation before that. An owner below feature level 5 sets neither.
	Incarnation, Former uint64
	// Source and Truncated are the position of the owner at the end of Records, if that is the end
	// of the log. Sequence orders the positions of one owner; 0 means that there is none.
	Source    int64
	Truncated bool
	Sequence  uint64
}

// Ack is a copy's response to an Append.
type Ack struct {
	// Length is how many bytes of the log the copy holds now, fsynced. It is less than
	// Append.Offset if bytes before Offset are missing.
	Length int64
	// Refusal is the reason why nothing was appended, such as ErrFenced, ErrReplaced or ErrSealed;
	// nil if there is none.
	Refusal error
	// Incarnation is that of the copy.
	Incarnation uint64
}
