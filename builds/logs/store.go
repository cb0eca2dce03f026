package logs

import (
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"
)

// Store keeps logs in a directory. It is safe for concurrent use.
type Store struct {
	opts    Options
	fs      FS
	metrics metrics

	mu      sync.Mutex
	logs    map[Key]*attemptLog
	files   map[Key][]string // paths of the segments found by Open
	problem error            // of the last write; ErrNoSpace stays until Probe finds room
	// removing are the logs whose files are being removed. They cannot be opened until the channel
	// is closed.
	removing    map[Key]chan struct{}
	damaged     map[Key]error // damage that was found, until the log is removed
	moreDamaged chan struct{} // closed and replaced when damaged grows

	sync   syncer
	begins beginLocks
	reads  diskReads
}

// attemptLog is one log of the store. The fields after mu, except for those about readers and
// writers, describe the durable part.
type attemptLog struct {
	key   Key
	store *Store
	// loaded is closed once the log was read from the disk, with the error err.
	loaded chan struct{}
	err    error

	mu     lock // held during some changes of the disk
	segs   []*segment
	epoch  uint64
	length int64
	raw    int64
	// truncated means that output was dropped because of the limit of the log.
	truncated bool
	sum       *xxhash.Digest
	// incarnation identifies this copy; 0 if it has none. See current.
	incarnation uint64
	// visible is the watermark: readers see the bytes before it. All copies of the log have these
	// bytes.
	visible int64
	// held is the last position that all copies of a replicated log are known to have.
	held position
	// end is the length at which the writer of the current epoch has ended the log; noEnd if it has
	// not. The watermark never rises above it. See freeze.
	end int64
	// uncut means that the disk may still have bytes after the end of the log, and the segments in
	// rest. See cut.
	uncut   bool
	rest    []*segment
	sealed  bool      // the log is complete
	removed bool      // the log is removed
	used    time.Time // time of the last append by another node
	// tail is the newest durable output, for readers at the end of the log.
	tail       []byte
	tailOffset int64
	changed    chan struct{} // closed at the next change; nil if there is no waiter
	writer     *Writer
	owner      *Writer // the writer of the attempt's owner on this node; nil after Leave
}

// noEnd is the end of a log whose writer has not ended it.
const noEnd = -1

// Writer appends to one log. One goroutine at a time may call Write, Marker, Reposition, Flush and
// Seal.
type Writer struct {
	l     *attemptLog
	epoch uint64
	// redacting guards redactor. A caller locks it before mu. The redactor does not run under mu,
	// because a flush of all logs would have to wait for it.
	redacting sync.Mutex
	redactor  *Redactor
	// replicated means that other nodes hold copies, and that Store.Show raises the watermark.
	replicated bool

	mu       sync.Mutex
	pending  pending
	length   int64 // including pending
	raw      int64 // including pending, without the output that the redactor holds back
	input    int64 // raw bytes written
	sum      *xxhash.Digest
	full     bool   // the limit was reached
	skipped  int64  // raw bytes that were dropped since the raw offset was stored
	sequence uint64 // of the last position that the owner has sent
	err      error  // of the last flush; nil if it succeeded
	fenced   bool
	finished bool
	flushing bool          // a flush is in progress
	flushed  chan struct{} // closed and replaced after each flush

	trail trail // guarded by the mu of the log

	// Only the syncer's flush and appendNow use these.
	file     File
	size     int64
	dirDirty bool // the directory must be fsynced
}

// pending is output that is not on the disk yet.
type pending struct {
	records  []byte
	data     []byte // payloads of the output
	position        // after the records
	marks    []seek // offset and position within records, for the index
	end      point  // after the last record with a payload; zero if there is none
}

// syncer writes pending output to the disk in one goroutine. A flush fsyncs each log with pending
// output once, and the directory once for all new files.
type syncer struct {
	store    *Store
	wake     chan struct{} // capacity 1
	urgent   chan struct{} // capacity 1
	stopping chan struct{}
	done     chan struct{}

	mu   sync.Mutex
	todo map[*Writer]bool
}
