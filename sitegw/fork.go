package sitegw

import (
	"errors"
	"log/slog"
	"os"

	"github.com/holdfast-edge/holdfast/internal/durable"
	"github.com/holdfast-edge/holdfast/wire"
)

const forkedFile = "forked"

// A forkStore keeps the run that the core refused because there are two of this gateway. A restart goes on as that run: otherwise it
// would be a new one, which the core cannot tell from the other copy's, and the two would replace each other for ever.
type forkStore struct {
	slots *durable.Slots
	log   *slog.Logger
}

// savedFork is what forked.{a,b} hold.
type savedFork struct {
	Run    uint64 `cbor:"1,keyasint"`
	Reason string `cbor:"2,keyasint,omitempty"`
}

// load is the run that was refused; 0: none was.
func (f *forkStore) load() uint64 {
	b, err := f.slots.Load()
	if errors.Is(err, os.ErrNotExist) {
		return 0
	}
	var s savedFork
	if err == nil {
		err = wire.Unmarshal(b, &s)
	}
	if err != nil {
		f.log.Error("what is kept of a refusal by the core does not read", "err", err)
	}
	return s.Run
}

// refused keeps a run that the core refused.
func (f *forkStore) refused(run uint64, reason string) {
	f.log.Error("the core refuses this gateway as a copy: it serves its plant as without an uplink, and devices keep what they state. Find the machine that is to be "+
		"this gateway, revoke the name with holdfast gateways revoke, and enroll that machine anew into an empty data directory", "reason", reason)
	if f.load() == run {
		return
	}
	b, err := wire.Marshal(savedFork{Run: run, Reason: reason})
	if err == nil {
		err = f.slots.Save(b, 0o600)
	}
	if err != nil {
		f.log.Error("the refusal is not kept", "err", err)
	}
}
