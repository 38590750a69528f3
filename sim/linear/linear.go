// Package linear checks histories of API calls for linearizability.
package linear

import _ "github.com/anishathalye/porcupine"
