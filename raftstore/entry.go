package raftstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"
)

// Limits of one entry. They are part of the format: a node refuses an entry beyond them, so they may only ever grow, and
// only after every voter runs a version that reads the larger ones.
const (
	// MaxCommand is the largest command in bytes (1 MiB). An entry carries at least one command, and one entry must
	// travel to a follower well within the transport's deadline.
	MaxCommand = 1 << 20

	// maxEntryCommands is how many commands may share an entry: enough to hide an fsync of some milliseconds, few
	// enough that applying one entry stays short.
	maxEntryCommands = 256

	// maxEntryPayload is at how many bytes of commands an entry is full (512 KiB, what hashicorp/raft suggests so that
	// heartbeats are not held up). A single larger command gets an entry of its own.
	maxEntryPayload = 512 << 10
)

// The layout is drawn in docs/raft-log.md, which changes together with this file.
const (
	entryFormat    = 0xA1 // high half: this is an entry of ours; low half: version 1
	entryCRCAt     = 1
	entryTimeAt    = 5
	entryRunAt     = 13
	entryNumberAt  = 21
	entryCountAt   = 29
	entryHeaderLen = 31
	entryPrefixLen = 4                // length before each command
	maxLogTime     = 253402300799_999 // the last millisecond of the year 9999
	maxEntryLen    = entryHeaderLen + maxEntryCommands*entryPrefixLen + MaxCommand
)

var (
	errEntryFormat   = errors.New("not an entry of a format that this version reads")
	errEntryLength   = errors.New("entry is longer or shorter than its content")
	errEntryChecksum = errors.New("checksum does not match")
	errEntryLimit    = errors.New("entry is beyond the format's limits")
)

// castagnoli is CRC32C, which amd64 and arm64 compute in hardware.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// entry is the content of one log entry.
type entry struct {
	timeMS   int64    // the leader's wall clock, milliseconds since 1970, 0..maxLogTime
	run      uint64   // the run of the node that proposed the commands, see waiters
	number   uint64   // of the entry within that run
	commands [][]byte // 1..maxEntryCommands, each 0..MaxCommand bytes
}

// encodedLen is the exact length of appendEntry's output.
func (e *entry) encodedLen() int {
	n := entryHeaderLen
	for _, c := range e.commands {
		n += entryPrefixLen + len(c)
	}
	return n
}

// appendEntry appends e's encoding to b. The same entry always gives the same bytes. e must be within the limits.
func appendEntry(b []byte, e *entry) []byte {
	start := len(b)
	b = append(b, entryFormat, 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint64(b, uint64(e.timeMS)) //nolint:gosec // clampTime keeps it within 0..maxLogTime
	b = binary.BigEndian.AppendUint64(b, e.run)
	b = binary.BigEndian.AppendUint64(b, e.number)
	b = binary.BigEndian.AppendUint16(b, uint16(len(e.commands))) //nolint:gosec // at most maxEntryCommands
	for _, c := range e.commands {
		b = binary.BigEndian.AppendUint32(b, uint32(len(c))) //nolint:gosec // at most MaxCommand
		b = append(b, c...)
	}
	binary.BigEndian.PutUint32(b[start+entryCRCAt:], entryChecksum(b[start:]))
	return b
}

// entryChecksum covers every byte but its own four.
func entryChecksum(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[:entryCRCAt], castagnoli), castagnoli, b[entryTimeAt:])
}

// decodeEntry reads one entry. The commands alias b. It accepts exactly what appendEntry writes.
func decodeEntry(b []byte) (entry, error) {
	if len(b) < entryHeaderLen || len(b) > maxEntryLen {
		return entry{}, fmt.Errorf("%d bytes: %w", len(b), errEntryLength)
	}
	if b[0] != entryFormat {
		return entry{}, fmt.Errorf("format byte %#02x: %w", b[0], errEntryFormat)
	}
	if got, want := entryChecksum(b), binary.BigEndian.Uint32(b[entryCRCAt:]); got != want {
		return entry{}, fmt.Errorf("%08x instead of %08x: %w", got, want, errEntryChecksum)
	}
	ms := binary.BigEndian.Uint64(b[entryTimeAt:])
	count := int(binary.BigEndian.Uint16(b[entryCountAt:]))
	if ms > maxLogTime || count == 0 || count > maxEntryCommands {
		return entry{}, fmt.Errorf("time %d, %d commands: %w", ms, count, errEntryLimit)
	}
	commands, err := splitCommands(b[entryHeaderLen:], count)
	if err != nil {
		return entry{}, err
	}
	return entry{
		timeMS:   int64(ms),
		run:      binary.BigEndian.Uint64(b[entryRunAt:]),
		number:   binary.BigEndian.Uint64(b[entryNumberAt:]),
		commands: commands,
	}, nil
}

// splitCommands reads count length-prefixed commands that fill b exactly.
func splitCommands(b []byte, count int) ([][]byte, error) {
	commands := make([][]byte, 0, count)
	for i := range count {
		if len(b) < entryPrefixLen {
			return nil, fmt.Errorf("before command %d: %w", i, errEntryLength)
		}
		n := binary.BigEndian.Uint32(b)
		b = b[entryPrefixLen:]
		if n > MaxCommand {
			return nil, fmt.Errorf("command %d of %d bytes: %w", i, n, errEntryLimit)
		}
		if int(n) > len(b) {
			return nil, fmt.Errorf("within command %d: %w", i, errEntryLength)
		}
		commands = append(commands, b[:n:n])
		b = b[n:]
	}
	if len(b) != 0 {
		return nil, fmt.Errorf("%d bytes after the last command: %w", len(b), errEntryLength)
	}
	return commands, nil
}

// clampTime turns a wall clock reading into a log time that the format can carry.
func clampTime(t time.Time) int64 { return min(max(t.UnixMilli(), 0), maxLogTime) }
