// Package spool is the gateway's durable queue: what the gateway has accepted and the core does not have yet. Records are appended at one end,
// read in order as often as needed, and trimmed at the other end once the core has them.
//
// A record is opaque bytes with a kind and a time. It gets a number, from 1 on without gaps, that is never given to another record of the same
// incarnation; a spool that is made anew has another incarnation. A chain of hashes runs through the records, so that whoever reads two
// spools of one incarnation sees whether one is a fork of the other.
//
// # Calls
//
// All methods may be called from several goroutines. Append encodes the record and returns; the goroutine of [Spool.Run] writes what has
// gathered, syncs it, and calls the records' done functions, in order. Nothing is written before Run is called. Appended data is bounded by
// what one segment may hold, at most 4 MiB; beyond that Append refuses with [ErrBusy]. Read and Trim do their work on the caller's goroutine;
// a Read never waits for the disk's part of an Append.
//
// # Faults
//
// What was acknowledged is never dropped. At its quota, or on a full disk, the spool refuses with [ErrHold] until there is room again, which it
// finds out by itself. After a failed write or sync the records of that batch, and those behind it, are refused with [ErrFailed]; the spool
// reopens the file, cuts it back to what was known to be durable, and goes on in a fresh segment; while it cannot it tries again, at
// first each second. Damage is found by checksum when it is read, is counted and logged with its place, and is reported by Read as a range of
// numbers that is lost; a damaged record is never handed out.
//
// DESIGN.md beside this file gives the reasons, docs/spool-format.md the format.
package spool
