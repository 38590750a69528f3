package floor

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/holdfast-edge/holdfast/internal/floor/proc"
)

const roleVerification = "verification"

// VerificationConfig is the regime of the verification floor. DefaultVerification gives the one to compare with.
type VerificationConfig struct {
	// RecordBytes is the size of what is signed, 1 or more.
	RecordBytes int
	// Window is how long a round is measured; more than zero.
	Window time.Duration
	// Rounds is how many rounds are measured, 1 or more.
	Rounds int
	// CPU is the core to use, or proc.AnyCPU.
	CPU int
}

// DefaultVerification returns records of 700 bytes and five short rounds.
func DefaultVerification() VerificationConfig {
	return VerificationConfig{RecordBytes: 700, Window: 60 * time.Millisecond, Rounds: 5, CPU: proc.AnyCPU}
}

// VerificationResult is what one check costs.
type VerificationResult struct {
	// Checks is how many were done in all rounds.
	Checks uint64
	// CPU is per check, in the round in which it was least: what disturbs CPU time only adds to it.
	CPU time.Duration
}

// verificationRound is what the child answers.
type verificationRound struct {
	Checks uint64
	CPU    time.Duration // of all checks
}

// Verification measures one ES256 check alone: SHA-256 of the record and the verification of a P-256 signature.
func Verification(ctx context.Context, cfg VerificationConfig) (res VerificationResult, err error) {
	if cfg.RecordBytes < 1 || cfg.Window <= 0 || cfg.Rounds < 1 {
		return VerificationResult{}, fmt.Errorf("verification floor: %w: %+v", ErrConfig, cfg)
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second+time.Duration(cfg.Rounds)*2*cfg.Window)
	defer cancel()
	child, err := StartChild(ctx, ChildConfig{Role: roleVerification, CPU: cfg.CPU, Config: cfg})
	if err != nil {
		return VerificationResult{}, fmt.Errorf("verification floor: %w", err)
	}
	defer func() { err = errors.Join(err, child.Close()) }()
	costs := make([]time.Duration, 0, cfg.Rounds)
	for range cfg.Rounds {
		var r verificationRound
		if err := child.Ask(ctx, commandRound, &r); err != nil {
			return VerificationResult{}, fmt.Errorf("verification floor: %w", err)
		}
		res.Checks += r.Checks
		costs = append(costs, time.Duration(float64(r.CPU)/float64(r.Checks)))
	}
	res.CPU = slices.Min(costs)
	return res, nil
}

// Figures renders the result as lines of a report.
func (r VerificationResult) Figures() []Figure {
	return []Figure{{"verification.cpu", micros(r.CPU), "us", "one ES256 check, SHA-256 included; least of all rounds"}}
}

// signedRecord is a registration as a device would send it.
type signedRecord struct {
	body      []byte
	key       *ecdsa.PublicKey
	signature []byte // ASN.1
}

// newSignedRecord makes random content of the given size and signs it with a new key.
func newSignedRecord(size int) (signedRecord, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return signedRecord{}, fmt.Errorf("make signing key: %w", err)
	}
	body := make([]byte, size)
	if _, err := rand.Read(body); err != nil {
		return signedRecord{}, fmt.Errorf("make record: %w", err)
	}
	digest := sha256.Sum256(body)
	signature, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		return signedRecord{}, fmt.Errorf("sign record: %w", err)
	}
	return signedRecord{body: body, key: &key.PublicKey, signature: signature}, nil
}

func (r *signedRecord) verify() bool {
	digest := sha256.Sum256(r.body)
	return ecdsa.VerifyASN1(r.key, digest[:], r.signature)
}

// verifier is the child.
type verifier struct {
	cfg    VerificationConfig
	record signedRecord
}

func openVerification(_ context.Context, config json.RawMessage) (Service, error) {
	cfg, err := decodeConfig[VerificationConfig](config)
	if err != nil {
		return nil, err
	}
	record, err := newSignedRecord(cfg.RecordBytes)
	if err != nil {
		return nil, err
	}
	return &verifier{cfg: cfg, record: record}, nil
}

// checksPerLook is how many checks pass between two looks at the clock, so that these cost nothing.
const checksPerLook = 16

func (v *verifier) Do(ctx context.Context, command string) (any, error) {
	if command != commandRound {
		return nil, fmt.Errorf("%w: %s", ErrUnknownCommand, command)
	}
	before, err := proc.CPUTime(os.Getpid())
	if err != nil {
		return nil, err
	}
	var r verificationRound
	for begin := time.Now(); ctx.Err() == nil && time.Since(begin) < v.cfg.Window; {
		for range checksPerLook {
			if !v.record.verify() {
				return nil, errBadSignature
			}
			r.Checks++
		}
	}
	after, err := proc.CPUTime(os.Getpid())
	if err != nil {
		return nil, err
	}
	r.CPU = after - before
	return r, nil
}

// Close has nothing to end.
func (v *verifier) Close() error { return nil }
