package cache

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"sync"

	"github.com/holdfast-edge/holdfast/internal/disk"
	"github.com/holdfast-edge/holdfast/wire"
)

// A file is a header and the content in blocks:
//
//	offset  size  what
//	0       4     magic "HFC1"
//	4       1     kind (wire.ContentKind)
//	5       1     codec (wire.Codec)
//	6       2     zero
//	8       32    digest; zero for a set of publishers
//	40      8     number of a set of publishers, big endian
//	48      8     n, bytes of the content as it is stored, big endian
//	56      4     CRC-32C of bytes 0 to 55
//	then, for each block of 256 KiB of the content, of which the last one may be shorter:
//	0       4     CRC-32C of the block
//	4             the block
const (
	fileMagic = "HFC1"
	headSize  = 60
	sumSize   = 4
	// Block is how much of a content is verified and handed out at a time, in bytes.
	Block = wire.MaxChunk
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// fileSize is that of n bytes of content.
func fileSize(n int64) int64 { return headSize + n + sumSize*((n+Block-1)/Block) }

func appendHead(b []byte, k Key, codec wire.Codec, n int64) []byte {
	at := len(b)
	b = append(b, fileMagic...)
	b = append(b, byte(k.Kind), byte(codec), 0, 0)
	b = append(b, k.Digest[:]...)
	b = binary.BigEndian.AppendUint64(b, k.Number)
	b = binary.BigEndian.AppendUint64(b, uint64(n)) //nolint:gosec // G115: never negative
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b[at:], castagnoli))
}

// readHead reads the header of a key's file, which has so many bytes.
func readHead(b []byte, k Key, size int64) (codec wire.Codec, n int64, err error) {
	if len(b) < headSize {
		return 0, 0, fmt.Errorf("%w: %d bytes", errDamaged, size)
	}
	codec = wire.Codec(b[5])
	n = int64(min(binary.BigEndian.Uint64(b[48:]), 1<<40))
	if string(appendHead(nil, k, codec, n)) != string(b[:headSize]) {
		return 0, 0, fmt.Errorf("%w: the header is of something else", errDamaged)
	}
	if size != fileSize(n) {
		return 0, 0, fmt.Errorf("%w: %d bytes, want %d", errDamaged, size, fileSize(n))
	}
	return codec, n, nil
}

// buffers are for reading a file's head with its first block, or another block.
var buffers = sync.Pool{New: func() any { return new([headSize + sumSize + Block]byte) }}

// A Blob is content out of the cache. It must be released, and not used any more then.
type Blob struct {
	Codec wire.Codec
	Data  []byte
	Total int64 // bytes of the whole content as it is stored

	buf *[headSize + sumSize + Block]byte
}

// Release gives the memory back.
func (b *Blob) Release() {
	if b.buf != nil {
		buffers.Put(b.buf)
		b.buf = nil
	}
}

// Get reads the block of a content that has the byte at offset, from there on. The error is ErrMissing when it is not there, or does not
// verify, in which case it is gone for good. At the end of the content there is a blob without data.
func (c *Cache) Get(k Key, offset int64) (*Blob, error) {
	c.mu.Lock()
	there := c.index.has(k)
	c.index.use(k)
	c.mu.Unlock()
	if !there {
		return nil, fmt.Errorf("%v: %w", k, ErrMissing)
	}
	b, err := c.read(k, offset)
	switch {
	case err == nil:
		return b, nil
	case errors.Is(err, fs.ErrNotExist):
		c.mu.Lock()
		c.index.remove(k)
		c.mu.Unlock()
	case errors.Is(err, errDamaged):
		c.drop(k, err)
	default: // the disk does not read it now
		c.failed("read", err)
	}
	return nil, fmt.Errorf("%v: %w: %w", k, ErrMissing, err)
}

func (c *Cache) read(k Key, offset int64) (*Blob, error) {
	f, err := c.FS.OpenFile(c.path(k), os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // it was only read
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	out := &Blob{buf: buffers.Get().(*[headSize + sumSize + Block]byte)} //nolint:forcetypeassert // the pool has nothing else
	if err := out.read(f, k, size, offset); err != nil {
		out.Release()
		return nil, err
	}
	return out, nil
}

func (b *Blob) read(f disk.File, k Key, size, offset int64) (err error) {
	buf := b.buf[:]
	n, err := disk.ReadFull(f, buf, 0)
	if err != nil {
		return err
	}
	if b.Codec, b.Total, err = readHead(buf[:n], k, size); err != nil {
		return err
	}
	if offset < 0 || offset >= b.Total {
		return nil
	}
	block := buf[headSize:n]
	if i := offset / Block; i > 0 {
		if n, err = disk.ReadFull(f, buf[:sumSize+Block], headSize+i*(sumSize+Block)); err != nil {
			return err
		}
		block = buf[:n]
	}
	want := min(b.Total-offset/Block*Block, Block)
	if int64(len(block)) < sumSize+want {
		return fmt.Errorf("%w: the block at %d is cut", errDamaged, offset)
	}
	data := block[sumSize : sumSize+want]
	if crc32.Checksum(data, castagnoli) != binary.BigEndian.Uint32(block) {
		return fmt.Errorf("%w: the block at %d does not match its checksum", errDamaged, offset)
	}
	b.Data = data[offset%Block:]
	return nil
}
