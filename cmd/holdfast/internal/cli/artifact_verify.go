package cli

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/holdfast-edge/holdfast/wire/artifact/build"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

type signatureFlags struct{ publishers, key string }

func artifactsVerify(a *app) *cobra.Command {
	var f signatureFlags
	var from []string
	c := &cobra.Command{
		Use: "verify DIR", Short: "check a built artifact and its signature",
		Long: `Verify opens every chunk of a built artifact, puts every file together and holds it against the manifest. It applies the patches whose
base is in an earlier build that --from names. With --publishers, a set of publishers, or --key, a public key, it verifies who signed.
It asks no core.`,
		Example: `  holdfast artifacts verify camera-1.5 --from camera-1.4 --key ci.key.pub`,
		Args:    takes("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			dirs, err := openBuilds(append(args, from...))
			if err != nil {
				return err
			}
			set, err := f.set()
			if err != nil {
				return err
			}
			d := dirs[0]
			v, err := d.Verify(cmd.Context(), dirs[1:]...)
			if err != nil {
				return err
			}
			l := localArtifactOf(d)
			l.Chunks, l.Applied = &v.Chunks, &v.Applied
			if set != nil {
				p, err := d.CheckSignature(set)
				if err != nil {
					return unsigned(err)
				}
				l.SignedBy = p.Name
			}
			return a.print(l, l.sheet().Write)
		},
	}
	c.Flags().StringArrayVar(&from, "from", nil, "`directory` of an earlier build, as a base of patches; may be repeated")
	c.Flags().StringVar(&f.publishers, "publishers", "", "`file` with a set of publishers: one of them must have signed")
	c.Flags().StringVar(&f.key, "key", "", "`file` with a public key: it must have signed")
	return c
}

// unsigned says what to do about an artifact without a signature.
func unsigned(err error) error {
	if errors.Is(err, build.ErrUnsigned) {
		return usage("%w: run holdfast artifacts sign", err)
	}
	return err
}

// set are the publishers of whom one must have signed; nil: it does not matter.
func (f *signatureFlags) set() (*seal.PublisherSet, error) {
	switch {
	case f.publishers != "" && f.key != "":
		return nil, usage("--publishers and --key exclude one another")
	case f.publishers != "":
		s, err := readSet(f.publishers)
		if err != nil {
			return nil, err
		}
		return s.PublisherSet, nil
	case f.key != "":
		pub, err := publicKey(f.key)
		if err != nil {
			return nil, err
		}
		return &seal.PublisherSet{Publishers: []seal.Publisher{{Name: "key " + seal.PublisherKeyOf(pub).String(), Key: pub}}}, nil
	}
	return nil, nil //nolint:nilnil // no set was asked for
}
