package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/holdfast-edge/holdfast/internal/disk"
	"github.com/holdfast-edge/holdfast/internal/floor/proc"
	"github.com/holdfast-edge/holdfast/internal/floor/wal"
	"github.com/holdfast-edge/holdfast/sitegw/custody"
	"github.com/holdfast-edge/holdfast/sitegw/spool"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// custodies measures how long a statement takes into custody, less its verification, against single syncs of the disk under the raw log. Several
// devices have one on its way at once, each as soon as its last one is in custody.
func custodies(ctx context.Context, b *bench) (err error) {
	dir, err := os.MkdirTemp("", "holdfast-bench-")
	if err != nil {
		return fmt.Errorf("directory of the run: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s, end, err := openSpool(ctx, filepath.Join(dir, "spool"), disk.OS{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end()) }()
	raw, err := openRaw(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, raw.Close()) }()
	keeper, err := custody.Open(custody.Config{Spool: s, Wall: time.Now, Log: logger()})
	if err != nil {
		return err
	}
	var rounds []custodyRound
	for range b.size.custodyRounds {
		statements, err := signedStatements(custodyLanes, b.size.custodyEach)
		if err != nil {
			return err
		}
		r, err := custodyTurn(s, keeper, raw, statements, b.size.custodyEach)
		if err != nil {
			return err
		}
		rounds = append(rounds, r)
	}
	reportCustody(b, rounds)
	return nil
}

// custodyLanes is how many statements are under way at once.
const custodyLanes = 32

// custodyRound is what one turn of the two took.
type custodyRound struct {
	own, floor asked // latencies
	foreign    float64
}

func custodyTurn(s *spool.Spool, k *custody.Keeper, raw *wal.Log, statements [][]*seal.SealedStatement, each int) (r custodyRound, err error) {
	foreign, err := proc.StartForeign(os.Getpid())
	if err != nil {
		return r, err
	}
	type kept struct {
		lane int
		took time.Duration
		err  *wire.Error
	}
	done := make(chan kept, custodyLanes)
	next := make([]int, custodyLanes)
	keep := func(lane int) {
		st := statements[lane][next[lane]]
		next[lane]++
		start := time.Now()
		k.Keep(st, next[lane] == 1, func(e *wire.Error) { done <- kept{lane, time.Since(start), e} })
	}
	for lane := range custodyLanes {
		keep(lane)
	}
	for range custodyLanes * each {
		d := <-done
		if d.err != nil {
			return r, d.err
		}
		r.own.took = append(r.own.took, d.took)
		if next[d.lane] < each {
			keep(d.lane)
		}
	}
	one := [][]byte{statements[0][0].Sealed}
	for range each * 4 {
		start := time.Now()
		if err := raw.Append(one); err != nil {
			return r, err
		}
		r.floor.took = append(r.floor.took, time.Since(start))
	}
	slices.Sort(r.own.took)
	slices.Sort(r.floor.took)
	if r.foreign, err = foreign.Share(); err != nil {
		return r, err
	}
	return r, s.Trim(s.Last().Seq)
}

func reportCustody(b *bench, all []custodyRound) {
	rounds := quieter(all, func(r custodyRound) float64 { return r.foreign })
	p := func(of func(r custodyRound) asked, q float64) float64 {
		return median(rounds, func(r custodyRound) float64 { a := of(r); return micros(a.percentile(q)) })
	}
	own, low := func(r custodyRound) asked { return r.own }, func(r custodyRound) asked { return r.floor }
	ratio := func(r custodyRound) float64 {
		return float64(r.own.percentile(0.99)) / float64(r.floor.percentile(0.99))
	}
	best, worst := extremes(rounds, ratio)
	b.add("custody.floor_p50", p(low, 0.5), "us", "one record of the size of a statement written and synced")
	b.add("custody.p50", p(own, 0.5), "us", fmt.Sprintf("%d statements under way; others took %.0f %% of a core", custodyLanes,
		100*median(rounds, func(r custodyRound) float64 { return r.foreign })))
	b.judge(verdict{
		name: "custody, less verification, p99", target: "at most 3 x the floor", unit: "us", floor: p(low, 0.99), own: p(own, 0.99),
		ratio: median(rounds, ratio), limit: 3,
		note: fmt.Sprintf("%d statements under way, against single syncs; median of the quieter %d of %d rounds, %.2f to %.2f", custodyLanes, len(rounds), len(all), best, worst),
	})
}

// signedStatements makes so many statements of each of n devices.
func signedStatements(n, each int) ([][]*seal.SealedStatement, error) {
	what := profile()
	out := make([][]*seal.SealedStatement, n)
	for i := range out {
		key, err := ident.NewKey()
		if err != nil {
			return nil, err
		}
		p := newPlayer(&device{id: ident.Device(fleetName, ident.NewDeviceID()), key: key, keyID: ident.KeyID(sha256.Sum256(nil))}, nil)
		for range each {
			if err := p.sign(&what); err != nil {
				return nil, err
			}
		}
		for _, b := range p.ready {
			st, err := seal.ParseStatement(b)
			if err != nil {
				return nil, err
			}
			out[i] = append(out[i], st)
		}
	}
	return out, nil
}
