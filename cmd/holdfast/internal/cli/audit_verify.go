package cli

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/client"
	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/output"
	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/settings"
	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
)

func auditVerify(a *app) *cobra.Command {
	var f verifyFlags
	c := &cobra.Command{
		Use: "verify [FILE|-]", Short: "check that nothing was changed in the audit trail",
		Long: `Verify checks each record: that what is shown is what its bytes say, that its hash is that of its bytes, that it has the next
number and carries the hash of the record before. It ends with exit code 1 and the position at the first one that does not hold.

With FILE, an exported trail, it asks no core. Without, it reads the whole trail from the core and compares it with the head
that the core has the fleet's authority sign.

Who rewrites a whole trail makes one that holds in itself. Gateways keep heads of the trail that the authority signed:
holdfast-gateway witness --data-dir G prints them. Each --witness is such a file; the trail must have exactly those hashes.
The authority's certificate is taken from --authority, or else from the witness; it must be signed by the fleet's root, which
is the CA of the login, or --ca-file.`,
		Example: `  holdfast audit verify
  holdfast audit verify --witness gw-a.witness --witness gw-b.witness
  holdfast audit verify trail.ndjson --witness gw-a.witness --ca-file ca.pem
  holdfast audit export | holdfast audit verify -`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				return a.verifyFile(args[0], f)
			}
			return a.verifyCore(cmd.Context(), f)
		},
	}
	c.Flags().StringArrayVar(&f.witnesses, "witness", nil, "`file` with heads that a gateway kept; may be repeated")
	c.Flags().StringVar(&f.authority, "authority", "", "`file` with the authority's certificate, PEM or DER")
	return c
}

type verifyFlags struct {
	witnesses []string
	authority string
}

// notary makes what verifies heads: from the CA that the flags, the environment or the stored context name.
func (f *verifyFlags) notary(a *app) (*notary, error) {
	n := &notary{known: map[string]authority{}}
	_, stored, err := a.context()
	if err != nil {
		return nil, err
	}
	if n.roots, err = settings.Authorities(a.overrides(), stored); err != nil {
		return nil, err
	}
	if f.authority != "" {
		n.given, err = readCertificate(f.authority)
	}
	return n, err
}

// witnessed reads all the heads of the witnesses.
func (f *verifyFlags) witnessed(n *notary) ([]head, error) {
	var heads []head
	for _, path := range f.witnesses {
		more, err := n.readWitness(path)
		if err != nil {
			return nil, err
		}
		heads = append(heads, more...)
	}
	return heads, nil
}

// verified is what verify prints for programs.
type verified struct {
	Records   uint64 `json:"records"`
	First     uint64 `json:"first"` // number of the first record; 0: there is none
	Last      uint64 `json:"last"`
	Hash      string `json:"hash"`      // of the trail after the last record, hex
	Witnesses int    `json:"witnesses"` // heads of witnesses that agree
	Signed    bool   `json:"signed"`    // the core's own head was verified by the authority's certificate
}

func (a *app) verifyFile(path string, f verifyFlags) (err error) {
	var heads []head
	if len(f.witnesses) > 0 {
		n, err := f.notary(a)
		if err != nil {
			return err
		}
		if heads, err = f.witnessed(n); err != nil {
			return err
		}
	}
	file := io.NopCloser(a.in)
	if path != "-" {
		if file, err = os.Open(path); err != nil { //nolint:gosec // G304: the operator names it
			return usage("%w", err)
		}
	}
	defer file.Close() //nolint:errcheck // read only
	t := newTrail(heads)
	err = eachLine(file, func(i int, line []byte) error {
		if err := t.add(line); err != nil {
			return fmt.Errorf("line %d: %w", i, err)
		}
		return nil
	})
	switch {
	case err != nil:
		return fmt.Errorf("%s: records up to %d hold; %w", path, t.last, err)
	case t.first == 0:
		return fmt.Errorf("%s: %w", path, trailError{errors.New("it holds no record")})
	}
	if err := t.end(); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return a.didVerify(t, t.agreed, false)
}

// coreHead is the core's head with the certificate to verify it by, where the core tells it.
type coreHead struct {
	v1.AuditHead
	Authority []byte `json:"authority"` // DER
}

func (a *app) verifyCore(ctx context.Context, f verifyFlags) error {
	n, err := f.notary(a)
	if err != nil {
		return err
	}
	heads, err := f.witnessed(n)
	if err != nil {
		return err
	}
	return a.with(ctx, func(c *client.Client) error {
		own, signed, err := a.ownHead(ctx, c, n)
		if err != nil {
			return err
		}
		t := newTrail(append(heads, own))
		q := client.Query{Path: client.Path("v1", "audit")}
		progress, done := a.counter("verified")
		q.Page = progress
		err = client.Pages(ctx, c, q, func(page []json.RawMessage) error {
			for _, line := range page {
				if err := t.add(line); err != nil {
					return err
				}
			}
			return nil
		})
		done()
		switch {
		case err != nil:
			return err
		case t.first > 1:
			return trailError{fmt.Errorf("the trail was cut: it begins with record %d", t.first)}
		}
		if err := t.end(); err != nil {
			return err
		}
		return a.didVerify(t, t.agreed-1, signed)
	})
}

// ownHead reads the core's head of the trail and verifies its signature, where anything tells the authority's certificate.
func (a *app) ownHead(ctx context.Context, c *client.Client, n *notary) (h head, signed bool, err error) {
	own, err := client.Get[coreHead](ctx, c, client.Path("v1", "audit", "head"), nil)
	if err != nil {
		return head{}, false, err
	}
	h = head{seq: own.Seq, where: "the core's own head"}
	b, err := hex.DecodeString(own.Hash)
	if err != nil || len(b) != len(h.hash) {
		return head{}, false, fmt.Errorf("%w: a head with the hash %.80q", client.ErrAnswer, own.Hash)
	}
	copy(h.hash[:], b)
	cert := own.Authority
	for der := range n.known { // one that a witness brought
		if cert == nil {
			cert = []byte(der)
		}
	}
	sealed, err := decodeBase64(own.Sealed)
	if err != nil {
		return head{}, false, fmt.Errorf("%w: a head that is not sealed: %w", client.ErrAnswer, err)
	}
	said, err := n.verify(sealed, cert)
	switch {
	case errors.Is(err, errNoAuthority):
		a.note("the signature of the core's head was not checked: %v; give it with --authority", err)
		return h, false, nil
	case err != nil:
		return head{}, false, trailError{fmt.Errorf("the core's head: %w", err)}
	case said.Seq != h.seq || said.Hash != h.hash:
		return head{}, false, trailError{fmt.Errorf("the core shows the head %x of record %d, and the authority signed %x of record %d", h.hash, h.seq, said.Hash, said.Seq)}
	}
	return h, true, nil
}

func (a *app) didVerify(t *trail, witnesses int, signed bool) error {
	v := verified{First: t.first, Last: t.last, Hash: hex.EncodeToString(t.hash[:]), Witnesses: witnesses, Signed: signed}
	if t.first > 0 {
		v.Records = t.last - t.first + 1
	}
	return a.print(v, func(w io.Writer) error {
		line := fmt.Sprintf("%d records verified, head %s after record %d", v.Records, v.Hash, v.Last)
		if v.First > 1 {
			line += fmt.Sprintf("; what came before record %d is not in it", v.First)
		}
		if signed {
			line += ", signed by the authority"
		}
		if witnesses > 0 {
			line += fmt.Sprintf("; %d heads of witnesses agree", witnesses)
		}
		if t.before > 0 {
			line += fmt.Sprintf("; %d are of earlier records", t.before)
		}
		_, err := fmt.Fprintln(w, output.Clean(line, 0))
		return err
	})
}
