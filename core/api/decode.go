package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
)

// maxDepth bounds the nesting of a body: many times what the deepest request needs.
const maxDepth = 32

var errJSON = errors.New("is not taken")

// jsonFormat is JSON, read strictly. What package json would guess at is refused: bytes that are not UTF-8, half surrogates,
// a name given twice in one object, and names in other case than they are written, which it would match nevertheless.
var jsonFormat = huma.Format{Marshal: huma.DefaultJSONFormat.Marshal, Unmarshal: unmarshal}

// problemFormat writes problems. Requests have no such bodies.
var problemFormat = huma.Format{Marshal: huma.DefaultJSONFormat.Marshal, Unmarshal: func([]byte, any) error {
	return fmt.Errorf("%w: application/problem+json", huma.ErrUnknownContentType)
}}

func unmarshal(b []byte, v any) error {
	if !utf8.Valid(b) {
		return fmt.Errorf("%w: it is not UTF-8", errJSON)
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	if err := checkValue(dec, "body", maxDepth); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: there is more behind the value", errJSON)
	}
	err := json.Unmarshal(b, v)
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Errorf("%w: %s: %s is not a value of it", errJSON, e.Field, e.Value)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errJSON, err)
	}
	return nil
}

// checkValue reads one value, in which depth more levels may nest. at says where it is.
func checkValue(dec *json.Decoder, at string, depth int) error {
	tok, err := dec.Token()
	if err != nil {
		return fmt.Errorf("%w: it is not JSON: %w", errJSON, err)
	}
	switch tok {
	case json.Delim('{'):
		if depth > 0 {
			return checkObject(dec, at, depth-1)
		}
	case json.Delim('['):
		if depth > 0 {
			return checkArray(dec, at, depth-1)
		}
	default:
		if s, ok := tok.(string); ok {
			return checkText(at, s)
		}
		return nil
	}
	return fmt.Errorf("%w: it nests more than %d levels", errJSON, maxDepth)
}

func checkObject(dec *json.Decoder, at string, depth int) error {
	seen := make(map[string]struct{})
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return fmt.Errorf("%w: it is not JSON: %w", errJSON, err)
		}
		name, _ := tok.(string)
		if strings.ContainsFunc(name, func(r rune) bool { return r >= utf8.RuneSelf || r >= 'A' && r <= 'Z' }) {
			return fmt.Errorf("%w: name %.80q in %s: names are lower-case ASCII", errJSON, name, at)
		}
		if _, twice := seen[name]; twice {
			return fmt.Errorf("%w: name %.80q is twice in %s", errJSON, name, at)
		}
		seen[name] = struct{}{}
		if err := checkValue(dec, at+"."+clip(name), depth); err != nil {
			return err
		}
	}
	return checkEnd(dec)
}

func checkArray(dec *json.Decoder, at string, depth int) error {
	for i := 0; dec.More(); i++ {
		if err := checkValue(dec, fmt.Sprintf("%s[%d]", at, i), depth); err != nil {
			return err
		}
	}
	return checkEnd(dec)
}

func checkEnd(dec *json.Decoder) error {
	if _, err := dec.Token(); err != nil {
		return fmt.Errorf("%w: it is not JSON: %w", errJSON, err)
	}
	return nil
}

// checkText refuses the replacement character, which is what package json makes of half a surrogate pair.
func checkText(at, s string) error {
	if strings.ContainsRune(s, utf8.RuneError) {
		return fmt.Errorf("%w: %s holds text that is not Unicode", errJSON, at)
	}
	return nil
}
