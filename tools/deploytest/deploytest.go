// Package deploytest checks what is deployed against what is built: the compose file with the compose specification's own
// loader and against the services' configurations, and the alert rules against the metrics that the code exports. A
// renamed setting or metric fails here instead of on a host.
//
// Run it with -count=1: Go's test cache does not see files of other modules.
package deploytest
