// Package reconcile brings a device to what was ordered: for each slot it decides what to do next, has it done, and states what became of it.
//
// [Decide] is pure: out of what a slot remembers ([Memory], on the disk) and what is so now ([View]) comes the next [Action]. The loop around it
// performs one action after the other. A slot goes through phases; those in brackets are stated under the name of the status.
//
//	at rest ──► Fetching ──► Verifying ──► Applying ──────► Healthy (healthy)
//	          (downloading)  (verifying)   (applying) │       │  ▲
//	     ▲         │                                  ▼       ▼  │ by way of Applying
//	     │         └──► Failed (failed) ◄──────── Reverting  Repairing (drifted)
//	     │                                            │
//	     └──────────── RolledBack (rolled_back) ◄─────┘        Removing ──► Removed (removed)
//
// A phase is on the disk before anything is done in it, together with the words in which it is stated, and everything that is done in it may be
// done again. So whenever the power goes, the agent goes on in the phase where it was: it ends on the new release, proved, or on the one before,
// proved again, and no end is stated twice or not at all (see [Word]). Only fetching needs a gateway. Neither the link nor a report has a part in any
// decision on health or on going back.
package reconcile
