package v1

// Problem is the body of every answer that is an error (RFC 9457), sent as application/problem+json. Clients decide by Status
// and Type, never by the texts.
type Problem struct {
	Type   string          `json:"type"` // one of the constants below
	Title  string          `json:"title"`
	Status int             `json:"status"`
	Detail string          `json:"detail"`           // what is wrong and, where there is something, what to do
	Errors []ProblemDetail `json:"errors,omitempty"` // one per field, at most a few
}

// ProblemDetail says what is wrong with one part of a request.
type ProblemDetail struct {
	Location string `json:"location"` // such as body.tags.line, query.limit or path.id
	Message  string `json:"message"`
}

// The problem types. They are append-only.
const (
	ProblemInvalid        = "urn:holdfast:problem:invalid-request" // 400, 408, 415, 422: the request itself is wrong
	ProblemTooLarge       = "urn:holdfast:problem:too-large"       // 413, 431
	ProblemUnauthorized   = "urn:holdfast:problem:unauthorized"    // 401: no bearer token, or none that is known
	ProblemForbidden      = "urn:holdfast:problem:forbidden"       // 403: the token is known and may not do this
	ProblemNotFound       = "urn:holdfast:problem:not-found"       // 404: no such route or no such thing
	ProblemMethod         = "urn:holdfast:problem:method"          // 405: the Allow header says which
	ProblemConflict       = "urn:holdfast:problem:conflict"        // 409: the state changed meanwhile, nothing was done
	ProblemReused         = "urn:holdfast:problem:key-reused"      // 409: the idempotency key belongs to another request
	ProblemContent        = "urn:holdfast:problem:content-missing" // 409: the core lacks content that the request needs; POST /v1/content/missing says what
	ProblemFull           = "urn:holdfast:problem:content-full"    // 507: there is no room for more content
	ProblemPrecondition   = "urn:holdfast:problem:precondition"    // 412: the record is not the one that If-Match names
	ProblemLimited        = "urn:holdfast:problem:too-many"        // 429: too many requests or failed attempts; Retry-After says when
	ProblemNotLeader      = "urn:holdfast:problem:not-leader"      // 503: nothing was done; the detail names the leader
	ProblemUnavailable    = "urn:holdfast:problem:unavailable"     // 503: nothing was done; try again
	ProblemBusy           = "urn:holdfast:problem:busy"            // 503: too many streams or requests at a time on this node
	ProblemOutcomeUnknown = "urn:holdfast:problem:outcome-unknown" // 504: it may have been done; read the state before trying again
	ProblemInternal       = "urn:holdfast:problem:internal"        // 500: a fault of the node; its log has the rest
)
