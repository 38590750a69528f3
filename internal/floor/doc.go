// Package floor measures what the raw mechanisms under Holdfast cost on the machine at hand, with nothing of the
// product in between: a heartbeat over QUIC, an idle connection, a registration made of one signature check and a
// batched Raft commit, and the smallest agent that holds a connection. A benchmark of the product, measured in the same
// run, is divided by these floors, so that its figure says how much the product adds and not how fast the machine is.
//
//	Heartbeat     server CPU per heartbeat, N connections, closed loop     us
//	Idle          server memory per idle connection, after a collection    KiB
//	Registration  signatures checked and records committed through Raft    registrations/s
//	Verification  one ES256 check alone                                    us
//	Agent         resident memory of a minimal agent                       MiB
//
// What is measured runs in processes of its own, so that their CPU time and memory are theirs alone. They are the
// calling program, started once more: a program that uses this package calls ChildMain first thing in its main (tests:
// in TestMain), which takes over where the process is such a child and returns at once where it is not. Programs may
// add roles of their own.
//
// Every function here blocks until its figure is there, ends early when its context does, has stopped its children
// and removed its files when it returns, and is to be called from one goroutine at a time: two measurements at once
// would measure each other. CPU times are the ones to compare on a shared machine; rates and latencies suffer from
// whatever else runs, which the results report as Foreign. The package needs Linux.
package floor
