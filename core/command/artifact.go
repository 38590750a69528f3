package command

import (
	"strconv"

	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/ident"
)

// SetPublishers takes in the next set of publishers. Set 1 is sealed by the authority, which the proposer did; each later one
// by the root keys of the set before. Applying decides whether the signatures are enough.
type SetPublishers struct {
	By     Actor  `cbor:"1,keyasint"`
	Sealed []byte `cbor:"2,keyasint"` // see seal.OpenPublisherSet
}

// AddArtifact makes an artifact known. The proposer read the manifest, whose bytes the core's nodes hold as chunks, and found
// it in order; applying decides whether a publisher signed the release.
type AddArtifact struct {
	By      Actor         `cbor:"1,keyasint"`
	Release []byte        `cbor:"2,keyasint"` // as signed
	Parts   []wire.Digest `cbor:"3,keyasint"` // chunks that make up the manifest's bytes, in order
	Kind    uint8         `cbor:"4,keyasint"` // artifact.Kind
	Size    uint64        `cbor:"5,keyasint"` // bytes of the artifact's files
	Chunks  uint64        `cbor:"6,keyasint"` // distinct chunks that the manifest names
}

// DeleteArtifact forgets an artifact that is assigned to no device.
type DeleteArtifact struct {
	By     Actor       `cbor:"1,keyasint"`
	Digest wire.Digest `cbor:"2,keyasint"` // of the manifest
}

// A Verb says what an Assign does. Verbs are append-only and never reused.
type Verb uint8

// The verbs.
const (
	VerbSet   Verb = 1 // the slot is to run the artifact
	VerbUnset Verb = 2 // the slot is to run nothing
	VerbRetry Verb = 3 // what failed in the slot is to be tried again
)

// String is the verb as events and the audit trail have it.
func (v Verb) String() string {
	switch v {
	case VerbSet:
		return "assign"
	case VerbUnset:
		return "unassign"
	case VerbRetry:
		return "retry"
	}
	return "verb " + strconv.Itoa(int(v))
}

// Assign changes what one slot of a device is to run.
type Assign struct {
	By        Actor          `cbor:"1,keyasint"`
	Device    ident.DeviceID `cbor:"2,keyasint"`
	Slot      string         `cbor:"3,keyasint"`
	Verb      Verb           `cbor:"4,keyasint"`
	Artifact  wire.Digest    `cbor:"5,keyasint"`           // VerbSet; otherwise zero
	Downgrade bool           `cbor:"6,keyasint,omitempty"` // VerbSet: see seal.Assignment
}

// emptyArtifact is empty for the commands of this file.
func emptyArtifact(k Kind) Command {
	switch k { //nolint:exhaustive // the others are not of this file
	case KindSetPublishers:
		return new(SetPublishers)
	case KindAddArtifact:
		return new(AddArtifact)
	case KindDeleteArtifact:
		return new(DeleteArtifact)
	case KindAssign:
		return new(Assign)
	}
	return nil
}
