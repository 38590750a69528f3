package raftstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
)

// checkPages walks the tree of a bbolt file and makes sure that bbolt can: every page reachable from the root is there,
// says who it is, is reached once, and holds sorted keys within its bounds. bbolt walks the same tree when it opens a
// file without a stored free list, in a goroutine of its own, and there a damaged pointer ends the whole process with a
// fault instead of an error. What the values hold is not looked at; rows are sealed.
//
// The layout is bbolt's (internal/common in its repository), in the machine's byte order, version 2:
//
//	page     id(8) flags(2) count(2) overflow(4), then count elements of 16 bytes, then what they point to
//	branch   pos(4) keysize(4) child(8)              pos counts from the element's own start
//	leaf     flags(4) pos(4) keysize(4) valuesize(4) flags 1: the value is a bucket
//	bucket   root(8) sequence(8), and, when root is 0, a whole page inside the value
//	meta     page header, then magic(4) version(4) pagesize(4) flags(4) root(8) sequence(8) freelist(8) pages(8) txid(8) fnv64a(8)
func checkPages(file io.ReaderAt) error {
	m, err := newestMeta(file)
	if err != nil {
		return err
	}
	c := &pageChecker{file: file, meta: m, seen: make(map[uint64]bool)}
	if err := c.page(m.root, nil, nil, 0); err != nil {
		return fmt.Errorf("%w: log file: %w", ErrCorrupt, err)
	}
	return nil
}

const (
	pageHeaderLen   = 16
	pageElementLen  = 16
	bucketHeaderLen = 16
	metaLen         = 64

	metaMagic   = 0xED0CDAED
	metaVersion = 2

	branchPage = 1
	leafPage   = 2
	bucketLeaf = 1

	smallestPage = 1 << 10
	largestPage  = 64 << 10
	maxDepth     = 64 // a tree this deep has more pages than a disk
)

var (
	errPage   = errors.New("page is damaged")
	errNoMeta = errors.New("both of the file's roots are damaged")
)

// pageMeta is one of the two roots of a file.
type pageMeta struct {
	pageSize int64
	root     uint64
	pages    uint64 // every page in use has a smaller id
	txid     uint64
}

// newestMeta returns the root that bbolt starts from.
func newestMeta(file io.ReaderAt) (pageMeta, error) {
	var newest pageMeta
	found := false
	consider := func(at int64) {
		if m, ok := readMeta(file, at); ok && (!found || m.txid > newest.txid) {
			newest, found = m, true
		}
	}
	consider(0)
	if found {
		consider(newest.pageSize)
	} else {
		for size := int64(smallestPage); size <= largestPage; size *= 2 {
			consider(size)
		}
	}
	if !found {
		return pageMeta{}, fmt.Errorf("%w: log file: %w", ErrCorrupt, errNoMeta)
	}
	return newest, nil
}

func readMeta(file io.ReaderAt, at int64) (pageMeta, bool) {
	var b [pageHeaderLen + metaLen]byte
	if _, err := file.ReadAt(b[:], at); err != nil {
		return pageMeta{}, false
	}
	body := b[pageHeaderLen:]
	sum := fnv.New64a()
	_, _ = sum.Write(body[:metaLen-8]) // a hash takes everything
	m := pageMeta{
		pageSize: int64(binary.NativeEndian.Uint32(body[8:])),
		root:     binary.NativeEndian.Uint64(body[16:]),
		pages:    binary.NativeEndian.Uint64(body[40:]),
		txid:     binary.NativeEndian.Uint64(body[48:]),
	}
	ok := binary.NativeEndian.Uint32(body) == metaMagic && binary.NativeEndian.Uint32(body[4:]) == metaVersion &&
		binary.NativeEndian.Uint64(body[56:]) == sum.Sum64() && m.pageSize >= smallestPage && m.pageSize <= largestPage
	return m, ok
}

// pageChecker walks one tree.
type pageChecker struct {
	file io.ReaderAt
	meta pageMeta
	seen map[uint64]bool // pages reached so far
}

// page checks the page id and all below it. Its keys must lie in [low, high); nil means unbounded.
func (c *pageChecker) page(id uint64, low, high []byte, depth int) error {
	if id < 2 || id >= c.meta.pages || c.seen[id] || depth > maxDepth {
		return fmt.Errorf("page %d of %d, at depth %d: %w: it cannot be in this place", id, c.meta.pages, depth, errPage)
	}
	c.seen[id] = true
	b, err := c.read(id)
	if err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	if err := c.elements(b, low, high, depth); err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	return nil
}

// read returns a page with its overflow pages.
func (c *pageChecker) read(id uint64) ([]byte, error) {
	var header [pageHeaderLen]byte
	at := int64(id) * c.meta.pageSize //nolint:gosec // id < pages, and a file with that many pages was written
	if _, err := c.file.ReadAt(header[:], at); err != nil {
		return nil, fmt.Errorf("%w: %w", errPage, err)
	}
	overflow := uint64(binary.NativeEndian.Uint32(header[12:]))
	if got := binary.NativeEndian.Uint64(header[:]); got != id || id+overflow >= c.meta.pages {
		return nil, fmt.Errorf("%w: it says that it is page %d with %d more", errPage, got, overflow)
	}
	// bbolt keeps at least two rows on a page, and a row is an entry with some fields of raft's.
	if int64(overflow)*c.meta.pageSize > 4*maxEntryLen { //nolint:gosec // four bytes
		return nil, fmt.Errorf("%w: it says that it spans %d pages", errPage, overflow)
	}
	for i := range overflow {
		c.seen[id+1+i] = true
	}
	b := make([]byte, (1+int64(overflow))*c.meta.pageSize) //nolint:gosec // bounded above
	if _, err := c.file.ReadAt(b, at); err != nil {
		return nil, fmt.Errorf("%w: %w", errPage, err)
	}
	return b, nil
}

// elements checks what a page holds; b may be an inline bucket's page.
func (c *pageChecker) elements(b, low, high []byte, depth int) error {
	flags := binary.NativeEndian.Uint16(b[8:])
	count := int(binary.NativeEndian.Uint16(b[10:]))
	if flags != branchPage && flags != leafPage {
		return fmt.Errorf("%w: its kind is %#x", errPage, flags)
	}
	if pageHeaderLen+count*pageElementLen > len(b) || (flags == branchPage && count == 0) {
		return fmt.Errorf("%w: it says that it has %d elements", errPage, count)
	}
	keys, rest, err := elementKeys(b, flags, count, low, high)
	if err != nil {
		return err
	}
	for i := range count {
		element := b[pageHeaderLen+i*pageElementLen:]
		switch {
		case flags == branchPage:
			next := high
			if i+1 < count {
				next = keys[i+1]
			}
			err = c.page(binary.NativeEndian.Uint64(element[8:]), keys[i], next, depth+1)
		case binary.NativeEndian.Uint32(element)&bucketLeaf != 0:
			err = c.bucket(rest[i], depth)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// elementKeys returns a page's keys and, for a leaf, its values.
func elementKeys(b []byte, flags uint16, count int, low, high []byte) (keys, values [][]byte, err error) {
	keys, values = make([][]byte, count), make([][]byte, count)
	for i := range count {
		start := pageHeaderLen + i*pageElementLen
		element := b[start:]
		var pos, keyLen, valueLen uint64
		if flags == branchPage {
			pos, keyLen = uint64(binary.NativeEndian.Uint32(element)), uint64(binary.NativeEndian.Uint32(element[4:]))
		} else {
			pos, keyLen = uint64(binary.NativeEndian.Uint32(element[4:])), uint64(binary.NativeEndian.Uint32(element[8:]))
			valueLen = uint64(binary.NativeEndian.Uint32(element[12:]))
		}
		from := uint64(start) + pos
		if from+keyLen+valueLen > uint64(len(b)) {
			return nil, nil, fmt.Errorf("%w: element %d lies outside", errPage, i)
		}
		keys[i], values[i] = b[from:from+keyLen], b[from+keyLen:from+keyLen+valueLen]
		if i > 0 && bytes.Compare(keys[i-1], keys[i]) >= 0 ||
			low != nil && bytes.Compare(keys[i], low) < 0 || high != nil && bytes.Compare(keys[i], high) >= 0 {
			return nil, nil, fmt.Errorf("%w: key %d is out of order", errPage, i)
		}
	}
	return keys, values, nil
}

// bucket checks a bucket that is the value of a leaf.
func (c *pageChecker) bucket(value []byte, depth int) error {
	if len(value) < bucketHeaderLen {
		return fmt.Errorf("%w: a bucket of %d bytes", errPage, len(value))
	}
	if root := binary.NativeEndian.Uint64(value); root != 0 {
		return c.page(root, nil, nil, depth+1)
	}
	inline := value[bucketHeaderLen:]
	if len(inline) < pageHeaderLen || binary.NativeEndian.Uint16(inline[8:]) != leafPage || depth > maxDepth {
		return fmt.Errorf("%w: an inline bucket of %d bytes", errPage, len(inline))
	}
	return c.elements(inline, nil, nil, depth+1)
}
