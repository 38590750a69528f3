package registry

import (
	"cmp"
	"crypto/sha256"
	"fmt"

	"github.com/google/btree"

	"github.com/holdfast-edge/holdfast/wire"
)

// A digest is half a SHA-256 of a record's encoding: long enough that no accident makes two alike, short enough to keep with
// each record.
type digest [16]byte

func (d *digest) xor(by digest) {
	for i := range d {
		d[i] ^= by[i]
	}
}

// A row is a record with its digest.
type row[V any] struct {
	v *V
	d digest
}

// A table is an ordered map of immutable records. A clone costs nothing until either side writes, so that every state of
// the registry can be read for as long as anybody wants.
//
// sum is the exclusive or of the records' digests, kept up with each change. Each digest is kept with its record and not
// made again from it, so a record that changed in memory shows as soon as it is replaced on another node that is sound.
type table[K any, V any] struct {
	t    *btree.BTreeG[row[V]]
	kind byte // of its records in a snapshot; 0: what is derived from other tables, and has no digest
	key  func(*V) K
	cmp  func(a, b K) int
	at   func(K) *V // a record that carries only its key, to look for
	sum  digest
}

func newTable[K any, V any](kind byte, compare func(a, b K) int, key func(*V) K, at func(K) *V) table[K, V] {
	less := func(a, b row[V]) bool { return compare(key(a.v), key(b.v)) < 0 }
	return table[K, V]{t: btree.NewG(32, less), kind: kind, key: key, cmp: compare, at: at}
}

func (t *table[K, V]) get(k K) (*V, bool) {
	r, ok := t.t.Get(row[V]{v: t.at(k)})
	return r.v, ok
}

// put takes v in and returns what it takes the place of, or nil.
func (t *table[K, V]) put(v *V) *V {
	r := row[V]{v: v}
	if t.kind != 0 {
		r.d = digestOf(t.kind, v)
		t.sum.xor(r.d)
	}
	old, _ := t.t.ReplaceOrInsert(r) // without one its digest is zero
	t.sum.xor(old.d)
	return old.v
}

func (t *table[K, V]) delete(k K) {
	if old, ok := t.t.Delete(row[V]{v: t.at(k)}); ok {
		t.sum.xor(old.d)
	}
}

func (t *table[K, V]) len() int { return t.t.Len() }

func (t *table[K, V]) all(f func(*V) bool) {
	t.t.Ascend(func(r row[V]) bool { return f(r.v) })
}

// after visits the records behind k in order.
func (t *table[K, V]) after(k K, f func(*V) bool) {
	t.t.AscendGreaterOrEqual(row[V]{v: t.at(k)}, func(r row[V]) bool {
		return t.cmp(t.key(r.v), k) == 0 || f(r.v)
	})
}

func (t *table[K, V]) clone() table[K, V] {
	c := *t
	c.t = t.t.Clone()
	return c
}

// digestOf is the digest of a record of a kind. Encoding a record of this package cannot fail.
func digestOf(kind byte, v any) digest {
	b, err := wire.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("registry: %T does not encode: %v", v, err))
	}
	h := sha256.New()
	h.Write([]byte{kind})
	h.Write(b)
	return digest(h.Sum(nil)[:16])
}

func compareStrings(a, b string) int { return cmp.Compare(a, b) }
