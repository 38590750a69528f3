package mesh

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/hashicorp/go-msgpack/v2/codec"
)

// A sieve lets through what an honest member of the mesh sends. The library takes more than that from whoever has the key: a
// packet of some hundred bytes that inflates to gigabytes, a state that announces a million members. So each message is opened here
// first, and what may cost more than its size is dropped.
//
// What is sieved is what the library puts on the wire (memberlist v0.7.0, protocol 2 to 5):
//
//	packet:  label header, sealed
//	stream:  label header (of the side that dialled), type 10, length of 4 bytes, sealed
//	sealed:  version 1, nonce of 12 bytes, AES-256-GCM with the label, behind type and length in a stream, as additional data
type sieve struct {
	header []byte // of the label: type 244, length, label
	label  string
	aead   cipher.AEAD
}

// The library's message types.
const (
	msgPing         = 0
	msgIndirectPing = 1
	msgAck          = 2
	msgSuspect      = 3
	msgAlive        = 4
	msgDead         = 5
	msgPushPull     = 6
	msgCompound     = 7
	msgEncrypt      = 10
	msgNack         = 11
	msgCRC          = 12
	msgError        = 13
	msgLabel        = 244

	sealVersion = 1
	sealNonce   = 12
)

// Bounds of what is let through.
const (
	maxPacket = 2 << 10
	maxParts  = 64 // of a packet: the library packs 1400 bytes, and no part of it has fewer than 25
	// maxStream bounds a message of a stream: the state of maxNodes members with their metas.
	maxStream = 128 << 10
	// maxNodes is how many members a state may have: those of the list and as many that left it.
	maxNodes = 64
)

var errSieved = errors.New("not what a member of the mesh sends")

func newSieve(label string, key []byte) (*sieve, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("site key: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("site key: %w", err)
	}
	return &sieve{header: append([]byte{msgLabel, byte(len(label))}, label...), label: label, aead: aead}, nil //nolint:gosec // G115: two names of at most 63 bytes
}

// open is the plain text of a sealed message.
func (s *sieve) open(b, data []byte) ([]byte, error) {
	if len(b) < 1+sealNonce || b[0] != sealVersion {
		return nil, fmt.Errorf("no sealed message: %w", errSieved)
	}
	plain, err := s.aead.Open(nil, b[1:1+sealNonce], b[1+sealNonce:], data)
	if err != nil {
		return nil, fmt.Errorf("sealed with another key: %w", errSieved)
	}
	if len(plain) == 0 {
		return nil, fmt.Errorf("empty: %w", errSieved)
	}
	return plain, nil
}

// packet holds a packet of a sibling against the rules.
func (s *sieve) packet(from string, b []byte) error {
	sealed, ok := bytes.CutPrefix(b, s.header)
	if !ok {
		return fmt.Errorf("no packet of this site: %w", errSieved)
	}
	plain, err := s.open(sealed, []byte(s.label))
	if err != nil {
		return err
	}
	if plain[0] == msgCRC && len(plain) > 5 {
		plain = plain[5:]
	}
	parts := [][]byte{plain}
	if plain[0] == msgCompound {
		if parts, err = split(plain[1:]); err != nil {
			return err
		}
	}
	asked := false // something that is answered, or an answer: a packet has one at most
	for _, p := range parts {
		switch {
		case len(p) == 0:
			return fmt.Errorf("an empty part: %w", errSieved)
		case p[0] == msgSuspect || p[0] == msgAlive || p[0] == msgDead:
			continue
		case asked:
			return fmt.Errorf("a second message of type %d: %w", p[0], errSieved)
		}
		asked = true
		switch p[0] {
		case msgAck, msgNack:
		case msgPing, msgIndirectPing:
			if err := asker(from, p[1:]); err != nil {
				return err
			}
		default:
			return fmt.Errorf("a message of type %d: %w", p[0], errSieved)
		}
	}
	return nil
}

// split takes a compound message apart: a count, lengths of 2 bytes, the parts.
func split(b []byte) ([][]byte, error) {
	if len(b) == 0 || int(b[0]) > maxParts || len(b) < 1+2*int(b[0]) {
		return nil, fmt.Errorf("no compound message of at most %d parts: %w", maxParts, errSieved)
	}
	n := int(b[0])
	lengths, rest := b[1:1+2*n], b[1+2*n:]
	out := make([][]byte, 0, n)
	for ; len(lengths) > 0; lengths = lengths[2:] {
		size := int(binary.BigEndian.Uint16(lengths))
		if size > len(rest) {
			return nil, fmt.Errorf("a part is cut off: %w", errSieved)
		}
		out, rest = append(out, rest[:size]), rest[size:]
	}
	return out, nil
}

// asker holds the address that a ping is to be answered at against the one who sent it.
func asker(from string, b []byte) error {
	var m struct {
		SourceAddr []byte
		SourcePort uint16
		SourceNode string
	}
	if err := codec.NewDecoderBytes(b, new(codec.MsgpackHandle)).Decode(&m); err != nil {
		return fmt.Errorf("ping: %w: %w", errSieved, err)
	}
	if m.SourceNode != from || !bytes.Equal(m.SourceAddr, ipOf(from)) || m.SourcePort != addrPort {
		return fmt.Errorf("ping of %.80q by %q: %w", m.SourceNode, from, errSieved)
	}
	return nil
}

// stream holds a message of a stream against the rules: head is its type and length, sealed what follows.
func (s *sieve) stream(head, sealed []byte) error {
	plain, err := s.open(sealed, append(bytes.Clone(head), s.label...))
	if err != nil {
		return err
	}
	switch plain[0] {
	case msgPing, msgAck, msgError:
		return nil
	case msgPushPull:
		var m struct{ Nodes, UserStateLen int }
		if err := codec.NewDecoderBytes(plain[1:], new(codec.MsgpackHandle)).Decode(&m); err != nil {
			return fmt.Errorf("push/pull: %w: %w", errSieved, err)
		}
		if m.Nodes < 0 || m.Nodes > maxNodes || m.UserStateLen != 0 {
			return fmt.Errorf("push/pull of %d members and %d further bytes: %w", m.Nodes, m.UserStateLen, errSieved)
		}
		return nil
	}
	return fmt.Errorf("a stream of type %d: %w", plain[0], errSieved)
}
