package api

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-edge/holdfast/core/history"
	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// A tape is the history of one device, and counts what is read of it.
type tape struct {
	History
	recs []history.Record
	read int
}

// Read implements History.
func (f *tape) Read(_ context.Context, _ history.StreamID, q history.Query) ([]history.Record, history.Cursor, error) {
	all := slices.Clone(f.recs)
	if q.Newest {
		slices.Reverse(all)
	}
	var out []history.Record
	for _, r := range all {
		c := r.Cursor().Compare(q.After)
		if !q.After.IsZero() && (q.Newest && c >= 0 || !q.Newest && c <= 0) {
			continue
		}
		if len(out) == q.Limit {
			return out, out[len(out)-1].Cursor(), nil
		}
		out, f.read = append(out, r), f.read+1
	}
	return out, history.Cursor{}, nil
}

// said makes a device's history: "1.2" is a statement of epoch 1, "1.2!" one that came late, "1.2-4" a range that was given
// up. The first statement of an epoch says that the one before it ended with ends[epoch-1]; 0: with a loss.
func said(t *testing.T, ends map[uint64]uint64, items ...string) (d *registry.Device, f *tape) {
	t.Helper()
	key, err := ident.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	d, f = &registry.Device{ID: ident.NewDeviceID()}, new(tape)
	for i, it := range items {
		var epoch, seq, to uint64
		kind := registry.KindStatement
		var v any
		if n, _ := fmt.Sscanf(it, "%d.%d-%d", &epoch, &seq, &to); n == 3 {
			kind, v = registry.KindLost, &registry.Lost{Epoch: epoch, From: seq, To: to}
		} else {
			st := &seal.Statement{
				Version: seal.StatementVersion, Type: seal.StatementRegister, Device: d.ID, Epoch: epoch, EpochID: [16]byte{byte(epoch)}, Seq: seq, Body: []byte{0xa0},
			}
			if seq > 1 {
				st.Prev = seal.Chain{1}
			} else if epoch > 1 {
				st.Before = &seal.EpochLink{Epoch: epoch - 1, Seq: ends[epoch-1], Chain: seal.Chain{1}}
				if ends[epoch-1] == 0 {
					st.Before.Seq, st.Before.Lost = 1, "state lost"
				}
			}
			s, err := seal.SealStatement(st, ident.KeyID{1}, key)
			if err != nil {
				t.Fatal(it, err)
			}
			v = &registry.StatementRecord{Sealed: s.Sealed, Late: strings.HasSuffix(it, "!")}
			if epoch > d.Epoch.N || epoch == d.Epoch.N && seq > d.Epoch.Seq {
				d.Epoch.N, d.Epoch.Seq = epoch, seq
			}
		}
		b, err := wire.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		f.recs = append(f.recs, history.Record{Index: uint64(i/2) + 1, N: uint32(i % 2), Kind: history.Kind(kind), Data: b})
	}
	return d, f
}

// pages reads a whole list.
func pages(t *testing.T, f *tape, index uint64, d *registry.Device, order string, limit int) (all []string, n int) {
	t.Helper()
	s := &server{Config: Config{History: f}}
	for cursor := ""; ; n++ {
		in := &historyInput{Order: order}
		in.Limit, in.Cursor = limit, cursor
		got, next, err := s.statements(t.Context(), index, d, in)
		if err != nil || len(got) > limit || len(got) == 0 && next != "" {
			t.Fatalf("%d items, next %q, %v", len(got), next, err)
		}
		for _, r := range got {
			it := r.item(registry.View{})
			text := fmt.Sprintf("%d.%d", it.Epoch, it.Seq)
			if it.Type == "lost" {
				text += fmt.Sprintf("-%d", it.To)
			}
			if it.Late {
				text += "!"
			}
			all = append(all, text)
		}
		if cursor = next; cursor == "" {
			return all, n + 1
		}
	}
}

func TestStatementsInOrder(t *testing.T) {
	for name, tt := range map[string]struct {
		ends  map[uint64]uint64
		items string
		want  string // empty: as they are
	}{
		"nothing":                    {items: ""},
		"as nearly always":           {items: "1.1 1.2 1.3 1.4 1.5"},
		"epochs":                     {map[uint64]uint64{1: 2}, "1.1 1.2 2.1 2.2 2.3", ""},
		"a gap is filled":            {nil, "1.1 1.4 1.5 1.2 1.3 1.6", "1.1 1.2 1.3 1.4 1.5 1.6"},
		"a gap is open":              {nil, "1.1 1.4 1.5", ""},
		"the second gateway's part":  {nil, "1.4 1.5 1.6 1.1 1.2 1.3", "1.1 1.2 1.3 1.4 1.5 1.6"},
		"given up":                   {nil, "1.1 1.5 1.2-4 1.6", "1.1 1.2-4 1.5 1.6"},
		"given up, and late":         {nil, "1.1 1.5 1.2-4 1.6 1.4! 1.3! 1.2!", "1.1 1.2-4 1.2! 1.3! 1.4! 1.5 1.6"},
		"given up in two":            {nil, "1.1 1.3 1.6 1.2-2 1.4-5 1.5! 1.2! 1.7", "1.1 1.2-2 1.2! 1.3 1.4-5 1.5! 1.6 1.7"},
		"given up from the first":    {nil, "1.3 1.1-2 1.1! 1.4", "1.1-2 1.1! 1.3 1.4"},
		"an epoch comes late":        {map[uint64]uint64{1: 3}, "1.1 2.1 2.2 1.2 1.3 2.3", "1.1 1.2 1.3 2.1 2.2 2.3"},
		"an epoch ended with a loss": {nil, "1.1 2.1 2.2 1.2! 1.3! 2.3", "1.1 1.2! 1.3! 2.1 2.2 2.3"},
		"epochs of their own":        {map[uint64]uint64{1: 1, 2: 2}, "2.2 3.1 1.1 2.1 3.2", "1.1 2.1 2.2 3.1 3.2"},
	} {
		t.Run(name, func(t *testing.T) {
			items := strings.Fields(tt.items)
			want := strings.Fields(cmp.Or(tt.want, tt.items))
			d, f := said(t, tt.ends, items...)
			inOrder(t, f, d, want)
		})
	}
}

// inOrder reads the list in both orders with pages of every size.
func inOrder(t *testing.T, f *tape, d *registry.Device, want []string) {
	t.Helper()
	back := slices.Clone(want)
	slices.Reverse(back)
	for limit := 1; limit <= len(want)+1; limit++ {
		if got, _ := pages(t, f, forIndex, d, "asc", limit); !slices.Equal(got, want) {
			t.Errorf("pages of %d: got %v, want %v", limit, got, want)
		}
		if got, _ := pages(t, f, forIndex, d, "desc", limit); !slices.Equal(got, back) {
			t.Errorf("newest first, pages of %d: got %v, want %v", limit, got, back)
		}
	}
}

const forIndex = 1 << 40 // newer than all there is

// What arrives in any order, with ranges that are given up and come late, shows as if sorted.
func TestStatementsInAnyOrder(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 2))
	for range 60 {
		var items []string
		last := uint64(3 + rng.IntN(9))
		ends := map[uint64]uint64{1: last}
		if rng.IntN(3) == 0 {
			ends[1] = 0 // and the device does not know where
		}
		for seq := range last {
			items = append(items, fmt.Sprintf("1.%d", seq+1))
		}
		for seq := range uint64(rng.IntN(9)) {
			items = append(items, fmt.Sprintf("2.%d", seq+1))
		}
		for range rng.IntN(len(items)) { // some overtake
			i, j := rng.IntN(len(items)), rng.IntN(len(items))
			items[i], items[j] = items[j], items[i]
		}
		if from := 1 + rng.Uint64N(last); from < last { // a range is given up; some of it comes after that
			var kept, late []string
			for _, it := range items {
				var epoch, seq uint64
				if _, err := fmt.Sscanf(it, "%d.%d", &epoch, &seq); err != nil {
					t.Fatal(err)
				}
				if epoch != 1 || seq < from || seq >= last {
					kept = append(kept, it)
				} else if rng.IntN(2) == 0 {
					late = append(late, it+"!")
				}
			}
			i := rng.IntN(len(kept) + 1)
			items = slices.Insert(kept, i, fmt.Sprintf("1.%d-%d", from, last-1))
			for _, it := range late {
				items = slices.Insert(items, i+1+rng.IntN(len(items)-i), it)
			}
		}
		d, f := said(t, ends, items...)
		want := slices.Clone(items)
		slices.SortFunc(want, func(a, b string) int { return spotOf(a).compare(spotOf(b)) })
		inOrder(t, f, d, want)
		if t.Failed() {
			t.Fatalf("arrived as %v", items)
		}
	}
}

func spotOf(item string) spot {
	s := spot{statement: !strings.Contains(item, "-")}
	if _, err := fmt.Sscanf(item, "%d.%d", &s.epoch, &s.seq); err != nil {
		panic(err)
	}
	return s
}

// A page reads what it shows, and no more than that where something is out of order elsewhere.
func TestStatementsReadNoMore(t *testing.T) {
	var items []string
	for seq := range 100 {
		items = append(items, fmt.Sprintf("1.%d", seq+1))
	}
	items[80], items[84] = items[84], items[80]
	d, f := said(t, nil, items...)
	for _, order := range []string{"asc", "desc"} {
		f.read = 0
		if got, n := pages(t, f, forIndex, d, order, 10); len(got) != 100 || n != 10 || f.read > 130 {
			t.Errorf("%s: %d items on %d pages for which %d records were read", order, len(got), n, f.read)
		}
	}
}

// What is newer than the request's view is not shown.
func TestStatementsNoNewer(t *testing.T) {
	d, f := said(t, nil, "1.1", "1.2", "1.3", "1.4", "1.5", "1.6", "1.7")
	d.Epoch.Seq = 4 // as of index 2
	for limit := 1; limit < 9; limit++ {
		if got, _ := pages(t, f, 2, d, "asc", limit); strings.Join(got, " ") != "1.1 1.2 1.3 1.4" {
			t.Errorf("pages of %d: %v", limit, got)
		}
		if got, _ := pages(t, f, 2, d, "desc", limit); strings.Join(got, " ") != "1.4 1.3 1.2 1.1" {
			t.Errorf("newest first, pages of %d: %v", limit, got)
		}
	}
}
