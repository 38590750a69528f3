package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/holdfast-edge/holdfast/internal/floor/cdc"
	"github.com/holdfast-edge/holdfast/internal/floor/proc"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/artifact"
	"github.com/holdfast-edge/holdfast/wire/artifact/build"
)

// cutPair is a turn of each of the two over the same file.
type cutPair struct {
	own, floor time.Duration
	foreign    float64
}

// artifacts measures the builder's chunking and hashing against the raw chunker and SHA-256, in turns over one file of bytes that do not
// compress, which the machine has in memory; and then a whole build of that file.
func artifacts(ctx context.Context, b *bench) (err error) {
	dir, err := os.MkdirTemp("", "holdfast-bench-")
	if err != nil {
		return fmt.Errorf("directory of the run: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	path := filepath.Join(dir, "content")
	if err := fillFile(path, b.size.cutBytes); err != nil {
		return err
	}
	cutter, err := build.NewCutter()
	if err != nil {
		return err
	}
	pairs := make([]cutPair, 0, b.size.cutRounds)
	for range b.size.cutRounds {
		if err := ctx.Err(); err != nil {
			return err
		}
		p, err := cutTurn(path, cutter)
		if err != nil {
			return err
		}
		pairs = append(pairs, p)
	}
	quiet := quieter(pairs, func(p cutPair) float64 { return p.foreign })
	size := float64(b.size.cutBytes) / mib
	med := func(f func(p cutPair) float64) float64 { return median(quiet, f) }
	ratio := func(p cutPair) float64 { return p.floor.Seconds() / p.own.Seconds() }
	worst, best := extremes(quiet, ratio)
	b.judge(verdict{
		name: "artifact: chunking and hashing", target: "at least 60 % of the floor", unit: "MiB/s",
		floor: med(func(p cutPair) float64 { return size / p.floor.Seconds() }), own: med(func(p cutPair) float64 { return size / p.own.Seconds() }),
		ratio: med(ratio), limit: 0.6, atLeast: true,
		note: fmt.Sprintf("a file of %.0f MiB, each chunk and the whole hashed, against each chunk alone; median of the quieter %d of %d pairs, %.2f to %.2f",
			size, len(quiet), len(pairs), worst, best),
	})
	start := time.Now()
	r, err := build.Build(ctx, build.Options{Source: path, Spec: &build.Spec{Name: "bench", Version: "1", Release: 1}, Out: filepath.Join(dir, "out")})
	if err != nil {
		return err
	}
	b.add("artifact.build", size/time.Since(start).Seconds(), "MiB/s", fmt.Sprintf("the whole build, with an attempt to compress and %d files written", r.ChunkCount))
	return nil
}

// cutTurn gives each of the two its turn.
func cutTurn(path string, cutter *build.Cutter) (p cutPair, err error) {
	foreign, err := proc.StartForeign(os.Getpid())
	if err != nil {
		return p, err
	}
	var own, raw int
	p.own, err = timed(path, func(r io.Reader) error {
		_, err := cutter.Cut(r, func(artifact.Chunk, []byte) error { own++; return nil })
		return err
	})
	if err != nil {
		return p, err
	}
	p.floor, err = timed(path, func(r io.Reader) error {
		raw, _, err = cdc.Cut(r, build.Algorithm, cdc.Sizes{Min: build.MinChunk, Normal: build.NormalChunk, Max: wire.MaxChunk})
		return err
	})
	if err != nil {
		return p, err
	}
	if own != raw {
		return p, fmt.Errorf("the builder made %d chunks and the raw chunker %d: they do not do the same", own, raw)
	}
	p.foreign, err = foreign.Share()
	return p, err
}

// timed says how long f took over a file.
func timed(path string, f func(io.Reader) error) (d time.Duration, err error) {
	file, err := os.Open(path) //nolint:gosec // G304: our own file
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	start := time.Now()
	err = f(file)
	return time.Since(start), err
}

// fillFile writes bytes that do not compress.
func fillFile(path string, n int64) (err error) {
	file, err := os.Create(path) //nolint:gosec // G304: our own file
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	_, err = io.CopyN(file, rand.NewChaCha8([32]byte{1}), n)
	return err
}
