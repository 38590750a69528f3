package registry

import (
	"cmp"

	"github.com/google/btree"
)

// A table is an ordered map of immutable records. A clone costs nothing until either side writes, so that every state of
// the registry can be read for as long as anybody wants.
type table[K any, V any] struct {
	t   *btree.BTreeG[*V]
	key func(*V) K
	cmp func(a, b K) int
	at  func(K) *V // a record that carries only its key, to look for
}

func newTable[K any, V any](compare func(a, b K) int, key func(*V) K, at func(K) *V) table[K, V] {
	less := func(a, b *V) bool { return compare(key(a), key(b)) < 0 }
	return table[K, V]{t: btree.NewG(32, less), key: key, cmp: compare, at: at}
}

func (t table[K, V]) get(k K) (*V, bool) { return t.t.Get(t.at(k)) }
func (t table[K, V]) put(v *V)           { t.t.ReplaceOrInsert(v) }
func (t table[K, V]) delete(k K)         { t.t.Delete(t.at(k)) }
func (t table[K, V]) len() int           { return t.t.Len() }
func (t table[K, V]) all(f func(*V) bool) {
	t.t.Ascend(func(v *V) bool { return f(v) })
}

// after visits the records behind k in order.
func (t table[K, V]) after(k K, f func(*V) bool) {
	t.t.AscendGreaterOrEqual(t.at(k), func(v *V) bool {
		return t.cmp(t.key(v), k) == 0 || f(v)
	})
}

func (t table[K, V]) clone() table[K, V] {
	t.t = t.t.Clone()
	return t
}

func compareStrings(a, b string) int { return cmp.Compare(a, b) }
