// Package wire holds what crosses a link: the messages of both links and of enrollment, the CBOR codec with its limits,
// the framing, the capability number with its history, and the error codes.
//
// It is a leaf: it knows the form of a message and nothing of what anybody does with it. docs/protocol.md has the tables.
package wire

import (
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"
)

// ErrMalformed is the sentinel of every input that does not decode.
var ErrMalformed = errors.New("malformed")

// Limits of decoding. They bound what a peer can make a receiver allocate for a frame of a given size.
const (
	maxNesting  = 8
	maxElements = 4096
	maxPairs    = 64

	maxDocElements = 1 << 16 // of documents that are bounded by their own size and read once
)

// The modes are built once; both are immutable and safe for concurrent use. Their options are constants, so a failure to
// build them is a programming error that the first test shows.
var (
	encMode = mustMode(cbor.CoreDetEncOptions().UserBufferEncMode())
	decMode = decoding(maxElements)
	docMode = decoding(maxDocElements)
)

func decoding(elements int) cbor.DecMode {
	return mustMode(cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		MaxNestedLevels:   maxNesting,
		MaxArrayElements:  elements,
		MaxMapPairs:       maxPairs,
		UTF8:              cbor.UTF8RejectInvalid,
		IntDec:            cbor.IntDecConvertSignedOrFail,
		BignumTag:         cbor.BignumTagForbidden,
		NaN:               cbor.NaNDecodeForbidden,
		Inf:               cbor.InfDecodeForbidden,
		FieldNameMatching: cbor.FieldNameMatchingCaseSensitive,
		BinaryUnmarshaler: cbor.BinaryUnmarshalerNone,
	}.DecMode())
}

func mustMode[M any](m M, err error) M {
	if err != nil {
		panic(err)
	}
	return m
}

// Marshal encodes v as deterministic CBOR (RFC 8949, section 4.2.1). Structs carry integer keys.
func Marshal(v any) ([]byte, error) {
	b, err := encMode.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", v, err)
	}
	return b, nil
}

// Unmarshal decodes exactly one CBOR item into v, which must be zero: a field that the input lacks is left as it is.
// Unknown keys are skipped; duplicate keys, indefinite lengths, tags, deep nesting, invalid UTF-8 and trailing bytes
// are refused with an error that is ErrMalformed.
func Unmarshal(b []byte, v any) error {
	if err := decMode.Unmarshal(b, v); err != nil {
		return fmt.Errorf("decode %T: %w: %w", v, ErrMalformed, err)
	}
	return nil
}

// UnmarshalDocument is Unmarshal for a document that no frame bounds, such as a manifest: its arrays may have 65,536 elements.
func UnmarshalDocument(b []byte, v any) error {
	if err := docMode.Unmarshal(b, v); err != nil {
		return fmt.Errorf("decode %T: %w: %w", v, ErrMalformed, err)
	}
	return nil
}
