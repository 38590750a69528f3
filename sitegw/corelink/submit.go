package corelink

import (
	"context"
	"time"

	"github.com/holdfast-edge/holdfast/sitegw/custody"
	"github.com/holdfast-edge/holdfast/wire"
)

// An answer is what the core said to a batch.
type answer struct {
	batch   *custody.Batch
	results []wire.SubmitResult
	err     error
}

// maxAnswers is how many answers may wait to be looked at: more than batches are ever under way, so that none blocks the reader,
// nor whoever ends a session.
const maxAnswers = 16

// submit sends what is in custody, from the oldest statement on, until the session ends.
func (l *Link) submit(ctx context.Context) error {
	r := l.Custody.Replay()
	answers := make(chan answer, maxAnswers)
	retry := time.NewTimer(time.Hour)
	defer retry.Stop()
	for {
		b, again, err := r.Next(time.Now())
		if err != nil {
			return err
		}
		if b != nil {
			l.sendBatch(b, answers)
			continue
		}
		if !again.IsZero() {
			retry.Reset(time.Until(again))
		}
		select {
		case a := <-answers:
			refused, err := r.Answered(a.batch, a.results, a.err, time.Now())
			if err != nil {
				return err
			}
			l.Refused(refused)
		case <-l.Custody.Wake():
		case <-retry.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (l *Link) sendBatch(b *custody.Batch, answers chan<- answer) {
	l.request(wire.TypeSubmit, func(id uint64) any { return b.Submit(id) }, func(_ wire.Type, body []byte, err error) {
		var out wire.Submitted
		if err == nil {
			err = wire.Unmarshal(body, &out)
		}
		answers <- answer{b, out.Results, err}
	})
}
