package reconcile

import (
	"errors"
	"time"

	"github.com/holdfast-edge/holdfast/agent/devstate"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

// The reasons of alarms.
const (
	alarmPublishers = "publishers"     // a set of publishers was offered that is not what the one before permits
	alarmOrder      = "order_conflict" // the authority signed two orders under one number
)

// alarmEvery is how often the same alarm is raised.
const alarmEvery = time.Hour

// Beat is what a heartbeat tells of this device: the number of the order that it obeys, a digest of what runs in its slots (nil: nothing does), and
// the number of its set of publishers.
func (r *Reconciler) Beat() (order uint64, running []byte, publishers uint64) {
	if o := r.Orders.Held(); o != nil {
		order = o.Number
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return order, r.running, r.Trusted.Number()
}

// Publishers takes in that there is a set of publishers of a number. It is fetched soon, and before the next artifact.
func (r *Reconciler) Publishers(number uint64) {
	if r.sets.told(number) {
		r.poke()
	}
}

func (r *Reconciler) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Order takes a sealed order. One that is obeyed is on the disk before anything is done for it. The error says what only whoever brought the order
// can be to blame for; what the authority is to blame for is an alarm.
func (r *Reconciler) Order(sealed []byte) error {
	o, err := r.Orders.Obey(sealed)
	switch {
	case err == nil && o != nil:
		r.Log.Info("order", "number", o.Number, "cluster_epoch", o.ClusterEpoch)
		r.poke()
	case err == nil:
	case errors.Is(err, devstate.ErrOrderConflict):
		r.alarm(alarmOrder, err.Error())
	case errors.Is(err, devstate.ErrUnknownOrder):
		r.Log.Warn("order not taken", "err", err)
	case errors.Is(err, devstate.ErrOldOrder), errors.Is(err, devstate.ErrForeignOrder), errors.Is(err, seal.ErrSignature), errors.Is(err, wire.ErrMalformed):
		return err
	default:
		r.Log.Error("order not stored; it will come again", "err", err)
	}
	return nil
}

// alarm states that something was refused that an honest peer would not bring.
func (r *Reconciler) alarm(reason, detail string) {
	r.Log.Error("refused", "reason", reason, "detail", detail)
	r.mu.Lock()
	defer r.mu.Unlock()
	if at, ok := r.alarms[reason]; ok && time.Since(at) < alarmEvery {
		return
	}
	body, err := wire.Marshal(seal.Alarm{Reason: reason, Detail: clip(detail)})
	if err == nil {
		err = r.Outbox.State(seal.StatementAlarm, body)
	}
	if err != nil {
		r.Log.Error("alarm not stated", "err", err)
		return
	}
	if r.alarms == nil {
		r.alarms = make(map[string]time.Time)
	}
	r.alarms[reason] = time.Now()
}
