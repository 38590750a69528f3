package raftcommit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, size int) (*Cluster, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	dir := t.TempDir()
	c, err := Start(ctx, dir, size)
	if err != nil {
		t.Fatal(err)
	}
	return c, dir
}

func stop(t *testing.T, c *Cluster) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func TestCommit(t *testing.T) {
	for _, size := range []int{1, 3} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			c, dir := start(t, size)
			defer stop(t, c)
			before := c.Applied()
			var commits sync.WaitGroup
			for range 4 {
				commits.Go(func() {
					for range 3 {
						if err := c.Commit(make([]byte, 1000)); err != nil {
							t.Error(err)
						}
					}
				})
			}
			commits.Wait()
			if got := c.Applied() - before; got != 12_000 {
				t.Errorf("applied %d bytes, want 12000", got)
			}
			files, err := filepath.Glob(filepath.Join(dir, "node-*", "raft.db"))
			if err != nil || len(files) != size {
				t.Fatalf("logs %v, %v, want %d", files, err, size)
			}
			for i, n := range c.nodes {
				// A follower may lag by what is not needed for a majority.
				last, err := n.store.LastIndex()
				if err != nil || (n == c.leader && last < 13) {
					t.Errorf("node %d: last index %d, %v", i, last, err)
				}
				if info, err := os.Stat(files[i]); err != nil || info.Size() == 0 {
					t.Errorf("%s: %v, %v", files[i], info, err)
				}
			}
		})
	}
}

func TestCommitWithoutMajority(t *testing.T) {
	c, _ := start(t, 3)
	defer stop(t, c)
	for _, n := range c.nodes {
		if n != c.leader {
			if err := n.raft.Shutdown().Error(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := c.Commit([]byte("alone")); !errors.Is(err, ErrLost) {
		t.Errorf("commit alone: %v, want ErrLost", err)
	}
}

func TestStartRefuses(t *testing.T) {
	for _, size := range []int{-1, 0, 8} {
		if _, err := Start(t.Context(), t.TempDir(), size); !errors.Is(err, ErrSize) {
			t.Errorf("%d nodes: %v, want ErrSize", size, err)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(t.Context(), file, 1); err == nil {
		t.Error("a file is no directory")
	}
}

func TestStartEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Start(ctx, t.TempDir(), 3); !errors.Is(err, ErrLost) || !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want ErrLost and context.Canceled", err)
	}
}
