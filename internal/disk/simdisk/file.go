package simdisk

import (
	"io"
	"os"
	"slices"
	"syscall"
)

// A change is one write or truncation since the last Sync.
type change struct {
	data     []byte // nil: the file got the size offset
	offset   int64
	truncate bool
}

// end is the size that the change makes at least, or exactly for a truncation.
func (c change) end() int64 { return c.offset + int64(len(c.data)) }

// put writes b into data, which grows with zeros where needed.
func put(data, b []byte, offset int64) []byte {
	if grow := offset + int64(len(b)) - int64(len(data)); grow > 0 {
		data = append(data, make([]byte, grow)...)
	}
	copy(data[offset:], b)
	return data
}

// resize cuts data, or lets it grow with zeros.
func resize(data []byte, size int64) []byte {
	if size <= int64(len(data)) {
		return data[:size:size]
	}
	return append(data, make([]byte, size-int64(len(data)))...)
}

func (n *node) write(b []byte, offset int64) {
	b = slices.Clone(b)
	n.data = put(n.data, b, offset)
	n.changes = append(n.changes, change{data: b, offset: offset})
}

func (n *node) truncate(size int64) {
	n.data = resize(n.data, size)
	n.reserved = 0
	n.changes = append(n.changes, change{offset: size, truncate: true})
}

// handle is an open file.
type handle struct {
	d      *Disk
	n      *node
	closed bool
}

// begin is how each operation of a file begins.
func (h *handle) begin(kind Kind, offset, size int64) error {
	h.d.mu.Lock()
	name := h.n.name
	h.d.mu.Unlock()
	if err := h.d.before(Op{Kind: kind, Name: name, Offset: offset, Bytes: size}); err != nil {
		return err
	}
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	if h.closed {
		return os.ErrClosed
	}
	return nil
}

// Close implements [disk.File].
func (h *handle) Close() error {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	if h.closed {
		return os.ErrClosed
	}
	h.closed = true
	h.d.open--
	return nil
}

// Size implements [disk.File].
func (h *handle) Size() (int64, error) {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	if h.closed {
		return 0, os.ErrClosed
	}
	return int64(len(h.n.data)), nil
}

// ReadAt implements [disk.File].
func (h *handle) ReadAt(b []byte, offset int64) (int, error) {
	if err := h.begin(OpRead, offset, int64(len(b))); err != nil {
		return 0, err
	}
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	if offset >= int64(len(h.n.data)) {
		return 0, io.EOF
	}
	n := copy(b, h.n.data[offset:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt implements [disk.File]. On a full disk it writes what has room.
func (h *handle) WriteAt(b []byte, offset int64) (int, error) {
	err := h.begin(OpWrite, offset, int64(len(b)))
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	if err != nil {
		if h.closed || h.d.fuse == 0 {
			return 0, err
		}
		b = b[:len(b)/2]
		h.n.write(b, offset)
		return len(b), err
	}
	if grows := offset + int64(len(b)) - h.n.room(); h.d.capacity >= 0 && grows > 0 {
		if over := grows - max(0, h.d.capacity-h.d.used()); over > 0 {
			err = syscall.ENOSPC
			b = b[:max(0, int64(len(b))-over)]
		}
	}
	if len(b) > 0 {
		h.n.write(b, offset)
	}
	return len(b), err
}

// Truncate implements [disk.File].
func (h *handle) Truncate(size int64) error {
	if err := h.begin(OpTruncate, 0, size); err != nil {
		return err
	}
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	h.n.truncate(size)
	return nil
}

// Reserve implements [disk.File].
func (h *handle) Reserve(size int64) error {
	if err := h.begin(OpReserve, 0, size); err != nil {
		return err
	}
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	if h.d.capacity >= 0 && h.d.used()+size-h.n.room() > h.d.capacity {
		return syscall.ENOSPC
	}
	h.n.reserved = max(h.n.reserved, size)
	return nil
}

// Sync implements [disk.File]. When it fails, any part of what was to be written is on the disk, and the rest is forgotten: another Sync
// succeeds and writes nothing of it, and reads see it until DropCache, as on Linux.
func (h *handle) Sync() error {
	err := h.begin(OpSync, 0, 0)
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	switch {
	case err == nil && !h.n.dropped:
		h.n.durable = slices.Clone(h.n.data)
	case err == nil: // after a failure only what was written since is
		h.n.durable = h.n.replay()
	case h.closed || h.d.fuse == 0:
		return err
	default:
		h.n.durable = h.n.survive(h.d.rand)
		h.n.dropped = true
	}
	h.n.changes = nil
	return err
}

// DropCache implements [disk.File].
func (h *handle) DropCache() error {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	if len(h.n.changes) == 0 { // what is still to be written stays
		h.n.data, h.n.dropped = slices.Clone(h.n.durable), false
	}
	return nil
}
