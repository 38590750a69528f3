// Package cache keeps content on a gateway's disk: chunks, manifests, releases and sets of publishers, each a file of its own under the
// name of what it is. What was not used for the longest makes room.
//
// It is a cache: no file in it is the only one. So nothing is synced, and a file counts for what it shows when it is read: of each
// block the checksum, and of the whole the name and the size. What does not verify is removed and never handed out. A disk that
// fails, or is full, costs the keeping and nothing else. docs/gateway-files.md describes the files.
package cache

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/holdfast-edge/holdfast/internal/disk"
	"github.com/holdfast-edge/holdfast/wire"
)

// DefaultQuota is how many bytes of the disk a cache takes unless it is told otherwise.
const DefaultQuota = 4 << 30

const (
	// maxFiles bounds the files: what is remembered of them takes some 200 bytes of memory each.
	maxFiles = 1 << 17
	// restTime is how long nothing is kept after the disk failed.
	restTime = 30 * time.Second
	// yield is the part of the cache that makes room when the disk is full: others need the disk more.
	yield = 8
)

// A Key names content. Number is that of a set of publishers, which has no digest.
type Key struct {
	Kind   wire.ContentKind
	Digest wire.Digest
	Number uint64
}

// String is the key in logs.
func (k Key) String() string {
	if k.Kind == wire.ContentPublishers {
		return fmt.Sprint(k.Kind, " ", k.Number)
	}
	return fmt.Sprint(k.Kind, " ", k.Digest.Short())
}

// Errors of the cache.
var (
	ErrMissing = errors.New("not in the cache")
	// ErrNotKept says that there is no room, or that the disk fails.
	ErrNotKept = errors.New("not kept in the cache")

	errDamaged = errors.New("damaged")
)

// Config of a Cache. Dir and Log are required.
type Config struct {
	FS    disk.FS // nil: the operating system's
	Dir   string
	Quota int64 // bytes; 0: DefaultQuota
	Log   *slog.Logger
}

// Cache may be used from any goroutine. Sets of publishers never make room, and are few.
type Cache struct {
	Config
	noise *rate.Limiter // of the log
	temp  counter       // names of files that are being written

	mu     sync.Mutex
	index  lru
	status Status
	rest   time.Time // nothing is kept before
}

// A Status is how a cache does. The counts are since the start.
type Status struct {
	Bytes   int64 // of the disk
	Files   int
	Evicted uint64 // files that made room
	Damaged uint64 // files that did not verify
	Failed  uint64 // writes and removals that the disk did not do
}

// Open opens a cache. It does not fail: on a disk that does not work nothing is kept.
func Open(c Config) *Cache {
	if c.FS == nil {
		c.FS = disk.OS{}
	}
	if c.Quota == 0 {
		c.Quota = DefaultQuota
	}
	k := &Cache{Config: c, noise: rate.NewLimiter(rate.Every(10*time.Second), 10), index: newLRU()}
	if err := k.load(); err != nil {
		k.failed("read the cache", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.makeRoom(0)
	return k
}

// load finds what is there. Nothing of it is verified before it is read.
func (c *Cache) load() error {
	if err := c.FS.MkdirAll(c.Dir, disk.DirPerm); err != nil {
		return err
	}
	dirs, err := c.FS.ReadDir(c.Dir)
	if err != nil {
		return err
	}
	var found []file
	var errs []error
	for _, d := range dirs {
		if !d.IsDir() {
			continue
		}
		files, err := c.FS.ReadDir(filepath.Join(c.Dir, d.Name()))
		errs = append(errs, err)
		for _, e := range files {
			f, err := c.stat(filepath.Join(c.Dir, d.Name(), e.Name()), e)
			if err != nil {
				errs = append(errs, err)
			} else if f.size >= 0 {
				found = append(found, f)
			}
		}
	}
	for _, f := range oldestFirst(found) {
		c.index.add(f.key, f.size)
	}
	return errors.Join(errs...)
}

// A file is one that was found.
type file struct {
	key  Key
	size int64 // negative: it is none of the cache's
	used time.Time
}

// stat looks at a file. What was being written when the process ended is removed.
func (c *Cache) stat(path string, e fs.DirEntry) (file, error) {
	if strings.HasSuffix(path, disk.TmpSuffix) {
		return file{size: -1}, c.FS.Remove(path)
	}
	k, ok := parseName(e.Name())
	if !ok || c.path(k) != path {
		return file{size: -1}, nil
	}
	if info, err := e.Info(); err == nil {
		return file{k, info.Size(), info.ModTime()}, nil
	}
	f, err := c.FS.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		return file{size: -1}, err
	}
	size, err := f.Size()
	return file{k, size, time.Time{}}, errors.Join(err, f.Close())
}

// suffixes end the names of files, by kind.
var suffixes = map[wire.ContentKind]string{
	wire.ContentChunk: ".chunk", wire.ContentManifest: ".manifest", wire.ContentRelease: ".release", wire.ContentPublishers: ".publishers",
}

// path is where a key's file is: beside at most a 256th of all.
func (c *Cache) path(k Key) string {
	if k.Kind == wire.ContentPublishers {
		return filepath.Join(c.Dir, "publishers", strconv.FormatUint(k.Number, 10)+suffixes[k.Kind])
	}
	return filepath.Join(c.Dir, hex.EncodeToString(k.Digest[:1]), k.Digest.String()+suffixes[k.Kind])
}

// parseName reads the name of a file.
func parseName(name string) (k Key, ok bool) {
	base, _, _ := strings.Cut(name, ".")
	for kind, s := range suffixes {
		if base+s != name {
			continue
		}
		k.Kind = kind
		var err error
		if kind == wire.ContentPublishers {
			k.Number, err = strconv.ParseUint(base, 10, 64)
		} else {
			k.Digest, err = wire.ParseDigest(base)
		}
		return k, err == nil
	}
	return k, false
}

// Status is how the cache does now.
func (c *Cache) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.status
	s.Bytes, s.Files = c.index.bytes, c.index.len()
	return s
}

// Has tells whether content is there, as far as is known without reading it.
func (c *Cache) Has(k Key) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.index.has(k)
}

// Keeping tells whether something new would be kept, as far as is known.
func (c *Cache) Keeping() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ready()
}

// ready tells whether the disk has not failed lately. The caller holds mu.
func (c *Cache) ready() bool { return !time.Now().Before(c.rest) }

// failed notes that the disk did not do something. Nothing is kept for a while.
func (c *Cache) failed(what string, err error) {
	c.mu.Lock()
	c.status.Failed++
	c.rest = time.Now().Add(restTime)
	c.mu.Unlock()
	if c.noise.Allow() {
		c.Log.Error("cache: the disk fails; content passes through without being kept", "doing", what, "err", err, "again_in", restTime.String())
	}
}

// makeRoom lets go of files until there is room for one more of so many bytes; false: there will be none. The caller holds mu.
func (c *Cache) makeRoom(size int64) bool {
	for c.index.bytes+size > c.Quota || c.index.len() >= maxFiles {
		if !c.evict() {
			return false
		}
	}
	return true
}

// evict lets go of the file that was not used for the longest; false: there is none that may go. The caller holds mu.
func (c *Cache) evict() bool {
	k, ok := c.index.oldest()
	if !ok {
		return false
	}
	c.index.remove(k)
	c.status.Evicted++
	if err := c.FS.Remove(c.path(k)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.status.Failed++
		c.rest = time.Now().Add(restTime) // its bytes are still there
		return false
	}
	return true
}

// yieldRoom lets go of a part of the cache, because the disk is full.
func (c *Cache) yieldRoom() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for least := c.index.bytes - c.index.bytes/yield - 1; c.index.bytes > least && c.evict(); {
	}
}

// Drop removes content that is not what its name says, though its file is whole.
func (c *Cache) Drop(k Key, why error) {
	if c.Has(k) {
		c.drop(k, why)
	}
}

// drop removes a file that does not verify.
func (c *Cache) drop(k Key, why error) {
	c.mu.Lock()
	c.index.remove(k)
	c.status.Damaged++
	c.mu.Unlock()
	if c.noise.Allow() {
		c.Log.Error("cache: a file does not verify and is removed; its content is fetched anew", "content", k.String(), "file", c.path(k), "err", why)
	}
	if err := c.FS.Remove(c.path(k)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.failed("remove a damaged file", err)
	}
}
