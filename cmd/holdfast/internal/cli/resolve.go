package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/client"
	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
)

// maxCandidates is how many ids the error about an ambiguous prefix names.
const maxCandidates = 5

// findID picks the one id that is given or begins as given, whatever the case.
func findID(what, given string, ids []string) (string, error) {
	if slices.Contains(ids, given) {
		return given, nil
	}
	var fits []string
	for _, id := range ids {
		if len(id) > len(given) && strings.EqualFold(id[:len(given)], given) {
			fits = append(fits, id)
		}
	}
	switch {
	case given == "" || len(fits) == 0:
		return "", fmt.Errorf("%s %q: %w", what, given, client.ErrNotFound)
	case len(fits) == 1:
		return fits[0], nil
	}
	slices.Sort(fits)
	more := ""
	if n := len(fits) - maxCandidates; n > 0 {
		fits, more = fits[:maxCandidates], fmt.Sprintf(" and %d more", n)
	}
	return "", fmt.Errorf("%s %q: %w: %s%s", what, given, errAmbiguous, strings.Join(fits, ", "), more)
}

// deviceID resolves the id of a device or its beginning. A whole id is not looked up: what is done with it will tell.
func (a *app) deviceID(ctx context.Context, c *client.Client, given string) (string, error) {
	if id, err := uuid.Parse(given); err == nil && len(given) == len(id.String()) {
		return id.String(), nil
	}
	devices, err := fetch[v1.Device](ctx, a, c, client.Query{Path: client.Path("v1", "devices")})
	if err != nil {
		return "", err
	}
	return findID("device", given, idsOf(devices, func(d v1.Device) string { return d.ID }))
}

// tokenID resolves the id of an enrollment token or its beginning.
func (a *app) tokenID(ctx context.Context, c *client.Client, given string) (string, error) {
	tokens, err := fetch[v1.Token](ctx, a, c, client.Query{Path: client.Path("v1", "tokens")})
	if err != nil {
		return "", err
	}
	return findID("token", given, idsOf(tokens, func(t v1.Token) string { return t.ID }))
}

func idsOf[T any](items []T, id func(T) string) []string {
	ids := make([]string, len(items))
	for i, it := range items {
		ids[i] = id(it)
	}
	return ids
}
