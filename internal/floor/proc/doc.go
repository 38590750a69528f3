// Package proc is the accounting that a benchmark needs about other processes: the CPU time they used, the memory
// they hold, what strangers took from the machine meanwhile, and a start that pins a process to one core. It reads
// /proc and the kernel's clocks and so works on Linux alone. Every function may be called from any goroutine.
package proc
