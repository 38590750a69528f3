package proc

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
)

// Memory is what a process holds at one moment. The kernel batches these counts per core, so that each may be off by
// some hundred KiB on a machine with few cores.
type Memory struct {
	// RSS is the resident set (VmRSS) in bytes: Anonymous, File and shared memory.
	RSS int64
	// Anonymous is the part of RSS with no file behind it, in bytes: heap and stacks.
	Anonymous int64
	// File is the part of RSS that is pages of files, in bytes: the program's own code above all.
	File int64
	// Peak is the largest RSS so far, in bytes.
	Peak int64
	// Threads is the number of kernel threads.
	Threads int64
}

// MemoryOf reads the memory of the process pid. A process that has ended but was not yet waited for holds none, which
// is an error, as is one that does not exist.
func MemoryOf(pid int) (Memory, error) {
	path := "/proc/" + strconv.Itoa(pid) + "/status"
	b, err := os.ReadFile(path) //nolint:gosec // G304: the path is made of a number
	if err != nil {
		return Memory{}, fmt.Errorf("memory of process %d: %w", pid, err)
	}
	m, err := parseStatus(b)
	if err != nil {
		return Memory{}, fmt.Errorf("memory of process %d: %s: %w", pid, path, err)
	}
	return m, nil
}

// parseStatus reads the lines "Key:   123 kB" that Memory is made of.
func parseStatus(status []byte) (Memory, error) {
	var m Memory
	wanted := map[string]*int64{
		"VmRSS": &m.RSS, "RssAnon": &m.Anonymous, "RssFile": &m.File, "VmHWM": &m.Peak, "Threads": &m.Threads,
	}
	for line := range bytes.Lines(status) {
		key, rest, _ := bytes.Cut(line, []byte{':'})
		target, ok := wanted[string(key)]
		if !ok {
			continue
		}
		v, err := parseAmount(rest)
		if err != nil {
			return Memory{}, fmt.Errorf("%w: line %s: %w", ErrFormat, key, err)
		}
		*target = v
		delete(wanted, string(key))
	}
	for key := range wanted {
		return Memory{}, fmt.Errorf("%w: no line %s (has the process ended?)", ErrFormat, key)
	}
	return m, nil
}

// parseAmount reads "123 kB" as bytes and "123" as a plain number.
func parseAmount(text []byte) (int64, error) {
	number, unit, _ := bytes.Cut(bytes.TrimSpace(text), []byte{' '})
	v, err := strconv.ParseUint(string(number), 10, 48)
	if err != nil {
		return 0, fmt.Errorf("amount: %w", err)
	}
	if string(unit) == "kB" {
		v <<= 10
	}
	return int64(v), nil
}
