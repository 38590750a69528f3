package sitelink

import (
	"crypto/ecdsa"
	"sync"

	"github.com/holdfast-edge/holdfast/core/registry"
	"github.com/holdfast-edge/holdfast/wire/ident"
)

// maxKeys bounds the keys that are kept parsed; beyond it all are forgotten and parsed again as they come.
const maxKeys = 1 << 16

// keys are public keys, parsed. A key's id is the hash of its encoding, so what is kept can never be another key.
type keys struct {
	mu sync.RWMutex
	by map[ident.KeyID]*ecdsa.PublicKey
}

func (k *keys) get(key *registry.Key) (*ecdsa.PublicKey, error) {
	k.mu.RLock()
	pub, ok := k.by[key.ID]
	k.mu.RUnlock()
	if ok {
		return pub, nil
	}
	pub, err := ident.ParseSPKI(key.SPKI)
	if err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.by == nil || len(k.by) >= maxKeys {
		k.by = make(map[ident.KeyID]*ecdsa.PublicKey)
	}
	k.by[key.ID] = pub
	return pub, nil
}
