package cli

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"io/fs"

	"github.com/spf13/cobra"

	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/keyfile"
	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/output"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

func keysCommand(a *app) *cobra.Command {
	c := &cobra.Command{Use: "keys", Aliases: []string{"key"}, Short: "make keys that sign artifacts and sets of publishers"}
	c.AddCommand(keysGenerate(a), keysShow(a))
	return c
}

// signingKey is what keys prints for programs.
type signingKey struct {
	ID         string `json:"id"`         // SHA-256 of the public key, hex: what the API and sets of publishers show
	PublicKey  string `json:"public_key"` // 32 bytes, base64
	PublicFile string `json:"public_file,omitempty"`
	File       string `json:"file,omitempty"` // with the private key
}

func (a *app) printKey(k signingKey, pub ed25519.PublicKey) error {
	k.ID, k.PublicKey = seal.PublisherKeyOf(pub).String(), base64.StdEncoding.EncodeToString(pub)
	s := &output.Sheet{}
	s.Fact("Id", k.ID)
	s.Fact("Public key", k.PublicKey)
	if k.PublicFile != "" {
		s.Fact("Public key's file", k.PublicFile)
	}
	if k.File != "" {
		s.Fact("Private key's file", k.File)
	}
	return a.print(k, s.Write)
}

func keysGenerate(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "generate FILE", Short: "make an ed25519 key",
		Long: `Generate writes a private key to FILE (PKCS #8, PEM, mode 0600) and the public key to FILE.pub, and asks no core: a private key
belongs on a machine that is not on the network. It overwrites nothing.

The key of a publisher signs artifacts; a root key signs sets of publishers. Any key can be either.`,
		Example: `  holdfast keys generate /media/safe/root-1.key`,
		Args:    takes("FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			pub, err := keyfile.Generate(args[0])
			if errors.Is(err, fs.ErrExist) {
				return usage("%w", err)
			}
			if err != nil {
				return err
			}
			return a.printKey(signingKey{File: args[0], PublicFile: args[0] + keyfile.PublicSuffix}, pub)
		},
	}
}

func keysShow(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "show FILE", Short: "show the id of a key", Long: "Show reads a public key and prints it with its id.",
		Args: takes("FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			pub, err := publicKey(args[0])
			if err != nil {
				return err
			}
			return a.printKey(signingKey{PublicFile: args[0]}, pub)
		},
	}
}

// privateKey reads a key to sign with.
func (a *app) privateKey(path string) (ed25519.PrivateKey, error) {
	key, open, err := keyfile.Private(path)
	if err != nil {
		return nil, usage("%w", err)
	}
	if open {
		a.note("%s is open to other users: chmod 600 it", path)
	}
	return key, nil
}

func publicKey(path string) (ed25519.PublicKey, error) {
	pub, err := keyfile.Public(path)
	if err != nil {
		return nil, usage("%w", err)
	}
	return pub, nil
}

// publicOf is the public half of a key.
func publicOf(k ed25519.PrivateKey) ed25519.PublicKey {
	return ed25519.PublicKey(k[ed25519.PrivateKeySize-ed25519.PublicKeySize:])
}
