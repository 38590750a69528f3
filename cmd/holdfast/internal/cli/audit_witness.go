package cli

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/holdfast-edge/holdfast/internal/durable"
	"github.com/holdfast-edge/holdfast/wire/ident"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

const (
	// maxAuditLine bounds one line of an exported trail or of a witness, in bytes.
	maxAuditLine = 1 << 20
	// maxHeads bounds the heads that are held in memory; a gateway keeps at most 50,000.
	maxHeads = 1 << 20
	// maxCert bounds a file with a certificate, in bytes.
	maxCert = 64 << 10
)

// A witnessLine is one head as a gateway keeps it. Only what is sealed counts; the rest must agree with it.
type witnessLine struct {
	Seq          uint64 `json:"seq"`
	Hash         string `json:"hash"` // hex
	ClusterEpoch uint64 `json:"cluster_epoch"`
	Sealed       []byte `json:"sealed"`
	Authority    []byte `json:"authority"` // certificate, DER; the line before's where it is absent
}

// A notary verifies heads that the fleet's authority signed.
type notary struct {
	roots []*x509.Certificate // the authority's certificate must be signed by one of them
	given []byte              // the authority's certificate, DER, that the operator names; nil: take what comes with a head

	known map[string]authority // by DER
}

// An authority is a key that a fleet's root vouches for.
type authority struct {
	fleet string
	key   ed25519.PublicKey
}

// errNoAuthority says that there is nothing to verify a head with.
var errNoAuthority = errors.New("nothing tells the authority's certificate")

// verify checks a sealed head by the authority's certificate: the operator's, or else the one that came with the head.
func (n *notary) verify(sealed, cert []byte) (*seal.AuditHead, error) {
	if n.given != nil {
		cert = n.given
	}
	if cert == nil {
		return nil, errNoAuthority
	}
	a, ok := n.known[string(cert)]
	if !ok {
		var err error
		if a, err = n.authority(cert); err != nil {
			return nil, err
		}
		n.known[string(cert)] = a
	}
	h, err := seal.OpenAuditHead(sealed, a.key)
	if err != nil {
		return nil, err
	}
	if h.Fleet != a.fleet {
		return nil, fmt.Errorf("head of fleet %q, signed by the authority of %q: %w", h.Fleet, a.fleet, seal.ErrSignature)
	}
	return h, nil
}

// authority verifies a certificate of the authority. It names its fleet, whose root must have signed it.
func (n *notary) authority(der []byte) (authority, error) {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return authority{}, fmt.Errorf("the authority's certificate: %w: %w", ident.ErrUntrusted, err)
	}
	id, err := ident.FromCert(c)
	if err != nil {
		return authority{}, fmt.Errorf("the authority's certificate: %w: %w", ident.ErrUntrusted, err)
	}
	var errs []error
	for _, root := range n.roots {
		trust, err := ident.NewTrust(id.Fleet, root.Raw)
		if err == nil {
			var key ed25519.PublicKey
			if key, err = trust.VerifyAuthority(der); err == nil {
				return authority{id.Fleet, key}, nil
			}
		}
		errs = append(errs, err)
	}
	return authority{}, errors.Join(errs...)
}

// readCertificate reads a certificate in PEM or DER.
func readCertificate(path string) ([]byte, error) {
	b, err := durable.ReadFile(path, maxCert)
	if err != nil {
		return nil, usage("--authority: %w", err)
	}
	if block, _ := pem.Decode(b); block != nil {
		b = block.Bytes
	}
	if _, err := x509.ParseCertificate(b); err != nil {
		return nil, usage("--authority: %s holds no certificate: %w", path, err)
	}
	return b, nil
}

// readWitness reads and verifies the heads that a gateway kept. One that does not verify is no reason to trust the others.
func (n *notary) readWitness(path string) (heads []head, err error) {
	f, err := os.Open(path) //nolint:gosec // G304: the operator names it
	if err != nil {
		return nil, usage("--witness: %w", err)
	}
	defer f.Close() //nolint:errcheck // read only
	var cert []byte
	err = eachLine(f, func(i int, line []byte) error {
		where := fmt.Sprintf("witness %s line %d", path, i)
		var l witnessLine
		if err := json.Unmarshal(line, &l); err != nil {
			return trailError{fmt.Errorf("%s is no head of a trail: %w", where, err)}
		}
		if l.Authority != nil {
			cert = l.Authority
		}
		h, err := n.verify(l.Sealed, cert)
		switch {
		case errors.Is(err, errNoAuthority):
			return usage("%s: %w: give it with --authority", where, err)
		case err != nil:
			return trailError{fmt.Errorf("%s: %w", where, err)}
		case h.Seq != l.Seq || hex.EncodeToString(h.Hash[:]) != l.Hash || h.ClusterEpoch != l.ClusterEpoch:
			return trailError{fmt.Errorf("%s shows another head than the authority signed: record %d with hash %x", where, h.Seq, h.Hash)}
		case len(heads) == maxHeads:
			return usage("--witness %s: over %d heads", path, maxHeads)
		}
		heads = append(heads, head{seq: h.Seq, hash: h.Hash, where: where})
		return nil
	})
	if err == nil && len(heads) == 0 {
		return nil, usage("--witness %s holds no head", path)
	}
	return heads, err
}

// eachLine calls f with each line, counted from 1, without its end. A last line without an end is one that was cut.
func eachLine(r io.Reader, f func(i int, line []byte) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxAuditLine)
	lines.Split(wholeLines)
	i := 1
	for ; lines.Scan(); i++ {
		if err := f(i, lines.Bytes()); err != nil {
			return err
		}
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return trailError{fmt.Errorf("line %d is over %d bytes", i, maxAuditLine)}
	case errors.Is(err, io.ErrUnexpectedEOF):
		return trailError{fmt.Errorf("line %d is cut: it has no end", i)}
	default:
		return err
	}
}

// wholeLines is a bufio.SplitFunc of lines that have an end.
func wholeLines(data []byte, atEOF bool) (advance int, token []byte, err error) {
	if i := bytes.IndexByte(data, '\n'); i >= 0 {
		return i + 1, data[:i], nil
	}
	if atEOF && len(data) > 0 {
		return 0, nil, io.ErrUnexpectedEOF
	}
	return 0, nil, nil
}
