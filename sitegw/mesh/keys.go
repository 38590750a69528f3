package mesh

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"github.com/holdfast-edge/holdfast/internal/durable"
	"github.com/holdfast-edge/holdfast/wire"
)

// Keys is the newest site key that the core told, kept on the disk, so that the gateways of a site find one another again after
// reboots in an outage. Its methods may be called from any goroutine.
type Keys struct {
	slots *durable.Slots
	log   *slog.Logger

	mu      sync.Mutex
	now     *wire.SiteKey // nil: none was ever told
	changed chan struct{} // closed when now changes, and then replaced
}

// OpenKeys reads the key from path.a and path.b. It does not fail: without a key there is no mesh until the core tells one.
func OpenKeys(path string, log *slog.Logger) *Keys {
	k := &Keys{slots: durable.OpenSlots(path), log: log, changed: make(chan struct{})}
	var stored wire.SiteKey
	b, err := k.slots.Load()
	if err == nil {
		err = wire.Unmarshal(b, &stored)
	}
	if err == nil {
		err = check(&stored)
	}
	switch {
	case err == nil:
		k.now = &stored
	case !errors.Is(err, os.ErrNotExist):
		log.Warn("the site key does not read: the gateways of the site are not found until the core tells it", "err", err)
	}
	return k
}

func check(k *wire.SiteKey) error {
	if len(k.Key) != wire.SiteKeySize {
		return fmt.Errorf("site key of %d bytes, want %d: %w", len(k.Key), wire.SiteKeySize, wire.ErrMalformed)
	}
	return nil
}

// Told takes the site key that the core told. One of an older generation comes from a node that is behind, and is not taken. A
// newer one counts at once, and the one before it no longer: it was changed to shut somebody out.
func (k *Keys) Told(key *wire.SiteKey) {
	if err := check(key); err != nil {
		k.log.Error("the site key that the core told is not taken", "err", err)
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.now != nil && (key.Generation < k.now.Generation || key.Generation == k.now.Generation && bytes.Equal(key.Key, k.now.Key)) {
		return
	}
	k.now = &wire.SiteKey{Generation: key.Generation, Key: bytes.Clone(key.Key)}
	close(k.changed)
	k.changed = make(chan struct{})
	b, err := wire.Marshal(k.now)
	if err == nil {
		err = k.slots.Save(b, 0o600)
	}
	if err != nil {
		k.log.Error("the site key is not stored: after a restart the one before counts", "err", err)
	}
	k.log.Info("site key changed", "generation", key.Generation)
}

// Now is the site key, nil when there is none, and a channel that is closed when it is another one. The key is not to be changed.
func (k *Keys) Now() (*wire.SiteKey, <-chan struct{}) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.now, k.changed
}
