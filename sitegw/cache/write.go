package cache

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/holdfast-edge/holdfast/internal/disk"
	"github.com/holdfast-edge/holdfast/wire"
)

// Put keeps content of at most Block bytes, which its caller has verified. The error is ErrNotKept; then it is as if it had not been
// tried.
func (c *Cache) Put(k Key, codec wire.Codec, data []byte) error {
	if len(data) == 0 || len(data) > Block {
		return fmt.Errorf("%v of %d bytes: %w", k, len(data), ErrNotKept)
	}
	w, err := c.Create(k, codec, int64(len(data)))
	if err != nil {
		return err
	}
	if err := w.Write(data); err != nil {
		return err
	}
	return w.Commit()
}

// A Writer writes one content. It belongs to one goroutine, and must be committed or aborted; after an error it is aborted.
type Writer struct {
	c     *Cache
	key   Key
	f     disk.File
	temp  string
	total int64
	at    int64  // in the file
	left  int64  // of total, that was not written yet
	block []byte // the beginning of a block that is not full yet, behind room for its sum
}

// Create begins to write a content of so many bytes. The error is ErrNotKept.
func (c *Cache) Create(k Key, codec wire.Codec, total int64) (*Writer, error) {
	c.mu.Lock()
	size := fileSize(total)
	ok := total > 0 && size <= c.Quota && c.ready() && c.makeRoom(size)
	c.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("%v of %d bytes: %w", k, total, ErrNotKept)
	}
	path := c.path(k)
	w := &Writer{c: c, key: k, total: total, left: total, temp: path + "." + strconv.FormatUint(c.temp.Add(1), 10) + disk.TmpSuffix}
	err := c.FS.MkdirAll(filepath.Dir(path), disk.DirPerm)
	if err == nil {
		w.f, err = c.FS.OpenFile(w.temp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	}
	if err != nil {
		return nil, w.fail(err)
	}
	w.block = appendHead(make([]byte, 0, headSize+sumSize+min(total, Block)), k, codec, total)
	w.block = append(w.block, make([]byte, sumSize)...)
	return w, nil
}

// Write adds a part.
func (w *Writer) Write(p []byte) error {
	if int64(len(p)) > w.left {
		w.Abort()
		return fmt.Errorf("%v: %d bytes too many: %w", w.key, int64(len(p))-w.left, ErrNotKept)
	}
	w.left -= int64(len(p))
	for len(p) > 0 {
		n := min(len(p), w.head()+sumSize+Block-len(w.block))
		w.block = append(w.block, p[:n]...)
		p = p[n:]
		if len(w.block) < w.head()+sumSize+Block && w.left+int64(len(p)) > 0 {
			continue
		}
		if err := w.flush(); err != nil {
			return w.fail(err)
		}
	}
	return nil
}

// head is the length of the file's header, while that waits with the first block.
func (w *Writer) head() int {
	if w.at == 0 {
		return headSize
	}
	return 0
}

// flush writes the block.
func (w *Writer) flush() error {
	h := w.head()
	binary.BigEndian.PutUint32(w.block[h:], crc32.Checksum(w.block[h+sumSize:], castagnoli))
	n, err := w.f.WriteAt(w.block, w.at)
	w.at += int64(n)
	w.block = append(w.block[:0], make([]byte, sumSize)...)
	return err
}

// Commit gives the file its name. Nothing is synced: what a power cut leaves shows when it is read.
func (w *Writer) Commit() error {
	if w.left > 0 {
		w.Abort()
		return fmt.Errorf("%v: %d bytes are lacking: %w", w.key, w.left, ErrNotKept)
	}
	err := w.f.Close()
	w.f = nil
	if err == nil {
		err = w.c.FS.Rename(w.temp, w.c.path(w.key))
	}
	if err != nil {
		return w.fail(err)
	}
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	w.c.index.add(w.key, fileSize(w.total))
	w.c.makeRoom(0) // others may have been written meanwhile
	return nil
}

// Abort gives it up.
func (w *Writer) Abort() {
	if w.f != nil {
		w.f.Close() //nolint:errcheck // it is removed
		w.f = nil
	}
	w.c.FS.Remove(w.temp) //nolint:errcheck // the next start removes it
}

// fail gives up because the disk did something wrong. A full disk is told what the cache can spare.
func (w *Writer) fail(err error) error {
	w.Abort()
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		w.c.yieldRoom()
	}
	w.c.failed("write", err)
	return fmt.Errorf("%v: %w: %w", w.key, ErrNotKept, err)
}
