package api

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// changingTheCache is the action of the calls below in errors for callers without the operator
// role.
const changingTheCache = "changing the reference cache"

// ListCachedRefs returns all cached references.
func (n Native) ListCachedRefs(context.Context, *imagebuilderv1.ListCachedRefsRequest) (*imagebuilderv1.ListCachedRefsResponse, error) {
	res := &imagebuilderv1.ListCachedRefsResponse{Read: n.readInfo()}
	n.store.Read(func(st *builds.State) {
		res.Refs, res.DefaultInterval = st.CachedRefs(), durationpb.New(st.DefaultCacheInterval())
	})
	return res, nil
}

// PutCachedRef adds a cached reference or changes its interval.
func (n Native) PutCachedRef(ctx context.Context, req *imagebuilderv1.PutCachedRefRequest) (*imagebuilderv1.PutCachedRefResponse, error) {
	if err := requireOperator(ctx, changingTheCache); err != nil {
		return nil, err
	}
	key, err := cacheKey(req.GetRef())
	if err != nil {
		return nil, apiError(err)
	}
	if _, err := checkInterval(req.GetInterval()); err != nil {
		return nil, apiError(err)
	}
	ref := &imagebuilderv1.CachedRef{Ref: key, Interval: req.GetInterval()}
	if _, _, err := builds.Propose(ctx, n.raft, &buildsv1.PutCachedRef{Ref: ref}); err != nil {
		return nil, apiError(err)
	}
	n.store.Read(func(st *builds.State) {
		if r := st.CachedRef(key); r != nil {
			ref = r
		}
	})
	return &imagebuilderv1.PutCachedRefResponse{Ref: ref}, nil
}

// DeleteCachedRef removes a cached reference. Its name may have any spelling that normalises to the
// same reference.
func (n Native) DeleteCachedRef(ctx context.Context, req *imagebuilderv1.DeleteCachedRefRequest) (*imagebuilderv1.DeleteCachedRefResponse, error) {
	if err := requireOperator(ctx, changingTheCache); err != nil {
		return nil, err
	}
	key, err := cacheKey(req.GetRef())
	if err != nil {
		return nil, apiError(err)
	}
	res, _, err := builds.Propose(ctx, n.raft, &buildsv1.DeleteCachedRef{Ref: key})
	if err != nil {
		return nil, apiError(err)
	}
	return &imagebuilderv1.DeleteCachedRefResponse{Existed: res.Existed}, nil
}

// RefreshCachedRefs makes cached references due now.
func (n Native) RefreshCachedRefs(ctx context.Context, req *imagebuilderv1.RefreshCachedRefsRequest) (*imagebuilderv1.RefreshCachedRefsResponse, error) {
	if err := requireOperator(ctx, changingTheCache); err != nil {
		return nil, err
	}
	cmd := new(buildsv1.RequestRefreshes)
	for _, ref := range req.GetRefs() {
		key, err := n.cachedKey(ref)
		if err != nil {
			return nil, apiError(err)
		}
		cmd.Refs = append(cmd.Refs, key)
	}
	due, err := n.RequestRefreshes(ctx, cmd)
	if err != nil {
		return nil, apiError(err)
	}
	return &imagebuilderv1.RefreshCachedRefsResponse{Refs: uint32(due)}, nil
}

// cacheKey validates a reference and returns its name in the cache.
func cacheKey(ref string) (string, error) {
	if err := checkRef("ref", ref); err != nil {
		return "", err
	}
	return builds.CacheKey(ref)
}

// cachedKey returns the name of a reference in the cache, or builds.ErrNotCached.
func (s *Service) cachedKey(ref string) (string, error) {
	key, err := cacheKey(ref)
	if err != nil {
		return "", err
	}
	known := false
	s.store.Read(func(st *builds.State) { known = st.CachedRef(key) != nil })
	if !known {
		return "", builds.ErrNotCached
	}
	return key, nil
}

// RequestRefreshes makes references due now and returns their number. Package node calls it when a
// registry reports a push.
func (s *Service) RequestRefreshes(ctx context.Context, cmd *buildsv1.RequestRefreshes) (int, error) {
	if err := s.requireCacheLevel(); err != nil {
		return 0, err
	}
	res, _, err := builds.Propose(ctx, s.raft, cmd)
	return res.Refs, err
}

// SetCacheInterval changes the interval of one cached reference, or the default interval.
func (n Native) SetCacheInterval(ctx context.Context, req *imagebuilderv1.SetCacheIntervalRequest) (*imagebuilderv1.SetCacheIntervalResponse, error) {
	if err := requireOperator(ctx, changingTheCache); err != nil {
		return nil, err
	}
	interval, err := checkInterval(req.GetInterval())
	if err == nil && interval == 0 && req.GetRef() == "" {
		err = invalidf("interval is missing: set the new default interval")
	}
	cmd := &buildsv1.SetCacheInterval{IntervalNanos: int64(interval)}
	if err == nil && req.GetRef() != "" {
		cmd.Ref, err = n.cachedKey(req.GetRef())
	}
	if err == nil {
		err = n.requireCacheLevel()
	}
	if err == nil {
		_, _, err = builds.Propose(ctx, n.raft, cmd)
	}
	if err != nil {
		return nil, apiError(err)
	}
	return &imagebuilderv1.SetCacheIntervalResponse{}, nil
}

// requireCacheLevel returns UNAVAILABLE while nodes run a version that cannot refresh references.
func (s *Service) requireCacheLevel() error {
	ok := false
	s.store.Read(func(st *builds.State) { ok = st.RefreshesCache() })
	if !ok {
		return status.Error(codes.Unavailable, "some nodes of the cluster run a version that cannot refresh references: try again when all nodes are upgraded")
	}
	return nil
}

// checkInterval validates an interval. It returns 0 if the request has none.
func checkInterval(d *durationpb.Duration) (time.Duration, error) {
	if d == nil {
		return 0, nil
	}
	if d.CheckValid() != nil || d.AsDuration() < builds.MinCacheInterval || d.AsDuration() > 365*24*time.Hour {
		return 0, invalidf("interval must be between %s and a year", builds.MinCacheInterval)
	}
	return d.AsDuration(), nil
}
