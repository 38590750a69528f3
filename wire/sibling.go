package wire

import "fmt"

// A Purpose says what a session between two gateways of a site is for. Purposes are append-only and never reused.
type Purpose uint8

// The purposes.
const (
	PurposeRelay   Purpose = 1 // to be spliced to a core node
	PurposeGossip  Purpose = 2 // a stream of the site's mesh
	PurposePackets Purpose = 3 // packets of the site's mesh
	PurposeMirror  Purpose = 4 // what the authority signed about the site
	PurposeContent Purpose = 5 // content: Fetch and Blob, framed, in the bytes
)

var purposeNames = [...]string{PurposeRelay: "relay", PurposeGossip: "gossip", PurposePackets: "packets", PurposeMirror: "mirror", PurposeContent: "content"}

// String is the purpose's name in logs.
func (p Purpose) String() string {
	if p != 0 && int(p) < len(purposeNames) {
		return purposeNames[p]
	}
	return fmt.Sprintf("purpose_%d", uint8(p))
}

// SiblingHello opens a session between two gateways of a site.
type SiblingHello struct {
	Capability uint32  `cbor:"1,keyasint"`
	Purpose    Purpose `cbor:"2,keyasint"`
}

// SiblingWelcome admits it: from then on both sides send Bytes alone.
type SiblingWelcome struct {
	Capability uint32 `cbor:"1,keyasint"`
	Identity   string `cbor:"2,keyasint"` // the one who dialled, as the other one reads it from the certificate
}

// Bytes are some of a stream, whatever the session's purpose makes of it.
type Bytes struct {
	Data []byte `cbor:"1,keyasint"` // 1 to MaxBytes
}

// MaxBytes bounds the bytes of one Bytes: a record of TLS passes in two.
const MaxBytes = 16 << 10
