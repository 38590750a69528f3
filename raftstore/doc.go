// Package raftstore hosts one replicated, durable state machine. It knows nothing of what the commands mean: it turns
// proposed byte strings into log entries, has them committed by a majority of the voters, applies them in log order and
// hands each proposer its own result. hashicorp/raft does the consensus; no other package imports it.
//
// Ordering. Commands are applied in one order on every node. Two commands proposed one after the other (the second after
// the first one's Propose returned) are applied in that order; commands proposed at the same time may share an entry and
// have no promised order. Log time (Meta.Time) never goes back along the log.
//
// Nodes. Any node proposes and reads: what it is asked it passes on to the leader, and the result is that of its own state
// machine. Only members speak to each other, over one port, which also carries the owner's calls (Call, Config.Handler).
//
// Durability. Propose returns without an error only after a majority has the command on disk and this node has applied
// it. A ReadBarrier that returns an index promises that everything acknowledged before the call began is applied here.
//
// Blocking. Propose, ReadBarrier, WaitApplied, Call, and those that change the members block until their context ends;
// nothing else does, except Open (it reads the whole log and the newest snapshot) and Shutdown. A StateMachine method that
// blocks stops the node.
//
// Callers must not change a command after passing it to Propose, must not keep or change the slices that Apply is given,
// and must not call Propose or ReadBarrier from a StateMachine method: both wait for that very goroutine.
//
// Failure. Whatever this node cannot survive with its state intact (a damaged log entry, a failed write, a state machine
// that refuses an entry) closes Done; Err then says what happened and what the operator should do. From that moment
// nothing more is applied, and the owner is expected to call Shutdown and to end the process.
package raftstore
