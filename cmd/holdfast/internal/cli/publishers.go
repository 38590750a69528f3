package cli

import (
	"bytes"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/output"
	"github.com/holdfast-edge/holdfast/internal/durable"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

func publishersCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use: "publishers", Aliases: []string{"publisher"}, Short: "make, sign and push sets of publishers, who may sign artifacts",
		Long: `A set of publishers says who may sign artifacts, and which root keys sign the next set. The core signs set 1 alone; each later one is
signed by root keys of the set before, so that nobody who has the core can say who may publish. Keep root keys off the network.`,
	}
	c.AddCommand(publishersNew(a), publishersSign(a), publishersShow(a), publishersPush(a), publishersList(a))
	return c
}

// A setFile is a set of publishers in a file: sealed, or a bare document that nobody signed yet.
type setFile struct {
	*seal.PublisherSet

	path   string
	sealed []byte // nil: nobody signed
}

// readSet reads a file with a set. No signature is verified.
func readSet(path string) (*setFile, error) {
	b, err := durable.ReadFile(path, seal.MaxPublisherSet)
	if err != nil {
		return nil, usage("%w", err)
	}
	if p, err := seal.PeekPublisherSet(b); err == nil {
		return &setFile{p, path, b}, nil
	}
	p := new(seal.PublisherSet)
	if err := wire.Unmarshal(b, p); err != nil {
		return nil, usage("%s holds no set of publishers: %w", path, err)
	}
	// What is signed is what the file says, to the byte.
	if again, err := wire.Marshal(p); err != nil || !bytes.Equal(again, b) {
		return nil, usage("%s holds no set of publishers in the form that is signed", path)
	}
	if err := p.Check(); err != nil {
		return nil, usage("%s: %w", path, err)
	}
	return &setFile{p, path, nil}, nil
}

// readNext reads a set and the sealed one before it, and holds them against one another.
func readNext(path, before string) (set, prev *setFile, err error) {
	if set, err = readSet(path); err != nil {
		return nil, nil, err
	}
	if before == "" {
		return set, nil, nil
	}
	if prev, err = readSet(before); err != nil {
		return nil, nil, err
	}
	switch {
	case prev.sealed == nil:
		return nil, nil, usage("%s is not sealed: it is no set that the next one can follow", before)
	case prev.Fleet != set.Fleet || set.Number != prev.Number+1:
		return nil, nil, usage("%s is set %d of fleet %q, and %s is set %d of %q: it does not follow", path, set.Number, set.Fleet, before, prev.Number, prev.Fleet)
	}
	return set, prev, nil
}

// shownSet is what publishers prints for programs.
type shownSet struct {
	File       string           `json:"file"`
	Fleet      string           `json:"fleet"`
	Number     uint64           `json:"number"`
	Publishers []shownPublisher `json:"publishers"`
	Roots      []string         `json:"roots"` // ids of the keys that sign the next set
	Threshold  int              `json:"threshold"`
	Signatures []shownSignature `json:"signatures"`
	Wanted     int              `json:"signatures_wanted,omitempty"` // when the set before is known
	Complete   bool             `json:"complete"`                    // enough root keys of the set before signed
}

type shownPublisher struct {
	Name string `json:"name"`
	Key  string `json:"key"` // id
}

type shownSignature struct {
	Key      string `json:"key"` // id; "authority": the core's
	Verified bool   `json:"verified"`
}

const byAuthority = "authority"

// show gathers what is known of a set; prev may be nil.
func (s *setFile) show(prev *setFile) (shownSet, error) {
	out := shownSet{
		File: s.path, Fleet: s.Fleet, Number: s.Number, Threshold: int(s.Threshold), Publishers: []shownPublisher{}, Roots: []string{}, Signatures: []shownSignature{},
	}
	for _, p := range s.Publishers {
		out.Publishers = append(out.Publishers, shownPublisher{p.Name, seal.PublisherKeyOf(p.Key).String()})
	}
	for _, r := range s.Roots {
		out.Roots = append(out.Roots, seal.PublisherKeyOf(r).String())
	}
	if s.sealed == nil {
		return out, nil
	}
	signatures, err := seal.PublisherSignatures(s.sealed)
	if err != nil {
		return out, err
	}
	var good []seal.PublisherKey
	if prev != nil {
		if good, err = prev.RootsOf(s.sealed); err != nil {
			return out, err
		}
		out.Wanted = int(prev.Threshold)
		out.Complete = len(good) >= out.Wanted
	}
	for _, x := range signatures {
		key := x.Key.String()
		if x.Key.IsZero() {
			key = byAuthority
		}
		out.Signatures = append(out.Signatures, shownSignature{key, slices.Contains(good, x.Key)})
	}
	return out, nil
}

func (s *shownSet) write(w io.Writer) error {
	o := &output.Sheet{}
	o.Fact("File", s.File)
	o.Fact("Fleet", s.Fleet)
	o.Fact("Set", fmt.Sprint(s.Number))
	o.Heading("Publishers", "")
	for _, p := range s.Publishers {
		o.Sub(p.Name, p.Key)
	}
	o.Heading("Root keys", fmt.Sprintf("%d of %d sign the next set", s.Threshold, len(s.Roots)))
	for i, r := range s.Roots {
		o.Sub(fmt.Sprint(i+1), r)
	}
	text := "none"
	switch {
	case s.Complete:
		text = "enough"
	case s.Wanted > 0:
		text = fmt.Sprintf("not enough, want %d", s.Wanted)
	case len(s.Signatures) > 0:
		text = "not verified"
	}
	o.Heading("Signatures", text)
	for i, x := range s.Signatures {
		key := x.Key
		if x.Verified {
			key += ", verified"
		}
		o.Sub(fmt.Sprint(i+1), key)
	}
	return o.Write(w)
}

func (a *app) printSet(s, prev *setFile) error {
	shown, err := s.show(prev)
	if err != nil {
		return err
	}
	return a.print(shown, shown.write)
}

func publishersShow(a *app) *cobra.Command {
	var from string
	c := &cobra.Command{
		Use: "show FILE", Short: "show a set of publishers in a file",
		Long: `Show reads a set of publishers, sealed or not. With --from, the set before, it verifies which of that set's root keys signed. It asks
no core.`,
		Args: takes("FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			s, prev, err := readNext(args[0], from)
			if err != nil {
				return err
			}
			return a.printSet(s, prev)
		},
	}
	c.Flags().StringVar(&from, "from", "", "`file` with the sealed set before")
	return c
}

func publishersSign(a *app) *cobra.Command {
	var key, from string
	c := &cobra.Command{
		Use: "sign FILE --key KEY --from PREV", Short: "sign a set of publishers with a root key",
		Long: `Sign adds the signature of a root key of the set before to the set in FILE, and shows the set: look at what you sign. Every holder of a
root key runs it, one after the other, on the same file, until the threshold of the set before is met. It asks no core.`,
		Example: `  holdfast publishers sign set-2.cose --from set-1.cose --key /media/safe/root-1.key`,
		Args:    takes("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := needs(cmd, "key", "from"); err != nil {
				return err
			}
			s, prev, err := readNext(args[0], from)
			if err != nil {
				return err
			}
			k, err := a.privateKey(key)
			if err != nil {
				return err
			}
			if !slices.ContainsFunc(prev.Roots, func(r []byte) bool { return bytes.Equal(r, publicOf(k)) }) {
				return usage("%s is no root key of set %d: its id is %s", key, prev.Number, seal.PublisherKeyOf(publicOf(k)))
			}
			signature, err := seal.SignPublisherSet(s.PublisherSet, k)
			if err != nil {
				return err
			}
			if s.sealed, err = addSignature(s.sealed, signature); err != nil {
				return err
			}
			if err := durable.WriteFile(s.path, s.sealed, 0o644); err != nil {
				return err
			}
			return a.printSet(s, prev)
		},
	}
	c.Flags().StringVar(&key, "key", "", "`file` with the private root key")
	c.Flags().StringVar(&from, "from", "", "`file` with the sealed set before")
	return c
}

// addSignature adds a signature to those of a sealed set, in the place of one that the same key made before. sealed may be nil.
func addSignature(sealed, signature []byte) ([]byte, error) {
	one, err := seal.JoinPublisherSet(signature)
	if err != nil || sealed == nil {
		return one, err
	}
	mine, err := seal.PublisherSignatures(one)
	if err != nil {
		return nil, err
	}
	before, err := seal.PublisherSignatures(sealed)
	if err != nil {
		return nil, err
	}
	var all [][]byte
	for _, x := range before {
		if x.Key != mine[0].Key {
			all = append(all, x.Bytes)
		}
	}
	return seal.JoinPublisherSet(append(all, signature)...)
}
