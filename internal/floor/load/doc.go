// Package load drives a fleet of devices in a closed loop: each device has one exchange under way at any time and
// begins the next as soon as the answer is there. That saturates whatever is slowest, the regime in which the cost per
// exchange is measured. Latencies go into a histogram of fixed size, so that a run of any length takes the same memory.
package load
