package cache

import (
	"slices"
	"sync/atomic"

	"github.com/holdfast-edge/holdfast/wire"
)

// A counter counts up.
type counter struct{ atomic.Uint64 }

// An item is one file.
type item struct {
	key          Key
	size         int64
	older, newer *item // in a ring; sets of publishers are in none
}

// lru is what is known of the files, in the order in which they were used.
type lru struct {
	all   map[Key]*item
	ring  *item // its newer is the one that was not used for the longest, its older the one that was used last
	bytes int64
}

func newLRU() lru {
	r := new(item)
	r.older, r.newer = r, r
	return lru{all: make(map[Key]*item), ring: r}
}

func (l *lru) len() int { return len(l.all) }

func (l *lru) has(k Key) bool { return l.all[k] != nil }

// add notes a file, in the place of one of that name, as the one that was used last.
func (l *lru) add(k Key, size int64) {
	l.remove(k)
	i := &item{key: k, size: size}
	l.all[k] = i
	l.bytes += size
	if k.Kind != wire.ContentPublishers {
		l.link(i)
	}
}

// use notes that a file was used.
func (l *lru) use(k Key) {
	if i := l.all[k]; i != nil && i.newer != nil {
		i.unlink()
		l.link(i)
	}
}

func (l *lru) remove(k Key) {
	i := l.all[k]
	if i == nil {
		return
	}
	delete(l.all, k)
	l.bytes -= i.size
	if i.newer != nil {
		i.unlink()
	}
}

// oldest is the file that was not used for the longest; false: there is none that may go.
func (l *lru) oldest() (Key, bool) {
	if l.ring.newer == l.ring {
		return Key{}, false
	}
	return l.ring.newer.key, true
}

func (l *lru) link(i *item) {
	i.older, i.newer = l.ring.older, l.ring
	i.older.newer, i.newer.older = i, i
}

func (i *item) unlink() {
	i.older.newer, i.newer.older = i.newer, i.older
	i.older, i.newer = nil, nil
}

// oldestFirst sorts what was found by when it was written, as that is all that is known after a start.
func oldestFirst(all []file) []file {
	slices.SortStableFunc(all, func(a, b file) int { return a.used.Compare(b.used) })
	return all
}
