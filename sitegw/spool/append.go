package spool

// Append adds a record. The spool calls done exactly once: with the record's number when it is durable, from the goroutine of Run, in the
// order of the numbers; or with an error, [ErrBusy], [ErrHold], [ErrFailed], [ErrTooLarge] or [ErrClosed], when it is refused. A record that is
// refused at once is so before Append returns. One that fails on its way to the disk does not exist for readers.
//
// Append does not wait for the disk. The data may be reused after the call. All later records wait for done, so it must not wait for anything.
func (s *Spool) Append(kind Kind, timeMS int64, data []byte, done func(seq uint64, err error)) {
	if err := s.enqueue(kind, timeMS, data, done); err != nil {
		done(0, err)
		return
	}
	signal(s.kick)
}

func (s *Spool) enqueue(kind Kind, timeMS int64, data []byte, done func(uint64, error)) error {
	if len(data) > MaxData {
		return ErrTooLarge
	}
	size := frameSize(len(data))
	if size > (s.cfg.Quota-s.cfg.Reserve)/2 { // a quota this small could be full for it for ever
		return ErrTooLarge
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b := &s.pending
	waiting := int64(len(b.buf))
	switch {
	case s.closed:
		return ErrClosed
	case s.ailing != nil:
		return refusal(s.ailing)
	case s.full:
		return ErrHold
	case s.used+s.writing+waiting+size+headerSize > s.cfg.Quota-s.cfg.Reserve:
		s.full = true
		s.cfg.Log.Warn("the spool is full; what is accepted is kept until the core has it, and nothing more is accepted", "bytes", s.used, "quota", s.cfg.Quota)
		return ErrHold
	case waiting > 0 && waiting+size > min(maxQueue, s.cfg.Segment-headerSize):
		return ErrBusy
	}
	var flags byte
	switch {
	case waiting == 0:
		flags = flagChain | flagBatch
	case s.plain == chainEvery-1:
		flags = flagChain
	}
	s.plain++
	if flags != 0 {
		s.plain = 0
	}
	r := Record{Seq: b.to.Seq + 1, Kind: kind, TimeMS: timeMS, Data: data}
	b.buf = appendFrame(b.buf, s.seed, flags, b.to.Chain, &r)
	s.hash.chain = b.to.Chain
	s.hash.add(b.buf[len(b.buf)-headSize-len(data):])
	b.to = Point{r.Seq, s.hash.chain}
	b.dones = append(b.dones, done)
	return nil
}

// take returns what is pending, to be written, and lets the next batch gather. The caller holds diskMu.
func (s *Spool) take() batch {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.pending
	s.writing = int64(len(b.buf))
	s.pending = batch{buf: s.spare[:0], from: b.to, to: b.to}
	s.spare = nil
	return b
}

// refuse gives up what is pending, and returns it. The numbers go to later records. The caller holds mu.
func (s *Spool) refuse() []func(uint64, error) {
	dones := s.pending.dones
	s.pending = batch{from: s.durable, to: s.durable}
	return dones
}
