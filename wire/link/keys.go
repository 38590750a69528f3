package link

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"

	"github.com/holdfast-edge/holdfast/internal/durable"
)

// LoadKeys reads a transport's keys from a file, or makes them there. They outlive the process, so that peers of the run
// before are reset at once instead of waiting for a timeout.
func LoadKeys(path string) (*Keys, error) {
	k := new(Keys)
	b, err := durable.ReadFile(path, 1<<10)
	switch {
	case errors.Is(err, os.ErrNotExist):
		b = make([]byte, len(k.Reset)+len(k.Token))
		rand.Read(b) // crypto/rand.Read never fails
		if err := durable.WriteFile(path, b, 0o600); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, fmt.Errorf("read transport keys: %w", err)
	}
	if len(b) != len(k.Reset)+len(k.Token) {
		return nil, fmt.Errorf("%s is damaged: remove it: peers then notice a restart later, and nothing else is lost", path)
	}
	copy(k.Reset[:], b)
	copy(k.Token[:], b[len(k.Reset):])
	return k, nil
}
