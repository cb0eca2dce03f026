package main

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// logReader copies a build's log to out. A stream that breaks is resumed at
// the byte where it broke.
type logReader struct {
	client  imagebuilderv1.ImageBuilderClient
	out     io.Writer
	name    string // id or ref
	attempt uint32
	offset  int64
	only    bool // one attempt only
	follow  bool
}

func (l *logReader) run(ctx context.Context) error {
	_, err := retry(ctx, func(ctx context.Context) (struct{}, error) { return struct{}{}, l.once(ctx) })
	return err
}

// once reads until the stream ends. Once it has read anything, a failure to go
// on counts as the first one again.
func (l *logReader) once(ctx context.Context) error {
	for {
		progress, err := l.stream(ctx)
		if status.Code(err) != codes.Unavailable || !progress {
			return err
		}
	}
}

func (l *logReader) stream(ctx context.Context) (progress bool, err error) {
	// Resumed within one attempt, then the next ones follow on their own.
	req := &imagebuilderv1.BuildLogsRequest{Attempt: l.attempt, Offset: l.offset, Follow: l.follow}
	if isRef(l.name) {
		req.Build = &imagebuilderv1.BuildLogsRequest_Ref{Ref: l.name}
	} else {
		req.Build = &imagebuilderv1.BuildLogsRequest_Id{Id: l.name}
	}
	for {
		stream, err := l.client.BuildLogs(ctx, req)
		if err != nil {
			return progress, err
		}
		for {
			chunk, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return progress, err
			}
			progress = true
			if !chunk.Marker {
				l.attempt, l.offset = chunk.Attempt, chunk.Offset+int64(len(chunk.Content))
			}
			if _, err := l.out.Write(chunk.Content); err != nil {
				return progress, exitError{exitFailed, err}
			}
		}
		if l.only || req.Attempt == 0 {
			return progress, nil
		}
		// A resumed attempt ended: is there another one?
		res, err := l.client.BuildStatus(ctx, statusRequest(l.name))
		if err != nil {
			return progress, err
		}
		if int(l.attempt) >= len(res.Build.Attempts) && res.Build.EndedAt != nil {
			return progress, nil
		}
		l.attempt, l.offset = l.attempt+1, 0
		req.Attempt, req.Offset = l.attempt, 0
	}
}
