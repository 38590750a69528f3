package reconcile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/holdfast-edge/holdfast/internal/durable"
	"github.com/holdfast-edge/holdfast/wire"
)

// A file is a slot's memory on the disk: state.{a,b} in the slot's directory (see durable.Slots), CBOR.
type file struct{ slots *durable.Slots }

// load reads the memory of the slot with the directory dir. Without one it is new; a damaged one is an error, and so is one that this
// build does not understand.
func load(dir string) (*file, Memory, error) {
	f, m := &file{durable.OpenSlots(filepath.Join(dir, "state"))}, Memory{}
	b, err := f.slots.Load()
	switch {
	case errors.Is(err, os.ErrNotExist):
		return f, m, nil
	case err != nil:
		return f, m, fmt.Errorf("slot state %s: %w", dir, err)
	}
	if err := wire.Unmarshal(b, &m); err != nil {
		return f, m, fmt.Errorf("slot state %s: %w", dir, err)
	}
	if m.Phase > Repairing {
		return f, m, fmt.Errorf("slot state %s: phase %d is not known: a newer build is needed: %w", dir, m.Phase, wire.ErrMalformed)
	}
	return f, m, nil
}

func (f *file) save(m *Memory) error {
	b, err := wire.Marshal(m)
	if err != nil {
		return err
	}
	return f.slots.Save(b, 0o600)
}
