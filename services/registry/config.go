package registry

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"time"

	"github.com/ultrathink-pilot/trainyard/libs/objectstore"
)

// Config is everything a registry process is told.
//
// Within a mesh it has the TLS files and an S3 bucket. Alone, as an MLflow server, it needs a
// database, mlflow-listen and a directory as its artifact-root.
type Config struct {
	Listen       string `conf:"listen" default:"127.0.0.1:0" usage:"host:port to serve gRPC on, when the tls files are given"`
	AdminListen  string `conf:"admin-listen" usage:"host:port for /metrics and, on loopback, pprof; empty serves neither"`
	TLSCert      string `conf:"tls-cert" usage:"PEM file of this service's certificate; without the three tls files gRPC is not served"`
	TLSKey       string `conf:"tls-key" usage:"PEM file of its key"`
	TLSCA        string `conf:"tls-ca" usage:"PEM file of the authority that callers must have"`
	OTLPEndpoint string `conf:"otlp-endpoint" usage:"OTLP gRPC receiver for traces; empty exports nothing"`
	LogLevel     string `conf:"log-level" default:"info" usage:"debug, info, warn or error"`
	DSN          string `conf:"dsn" required:"true" secret:"true" usage:"Postgres connection string"`
	MaxConns     int    `conf:"max-connections" default:"16" usage:"bound of the Postgres pool"`
	ArtifactRoot string `conf:"artifact-root" usage:"where artifacts are kept: s3://BUCKET, or a directory; empty means the bucket s3-bucket"`
	S3           S3     `conf:"s3"`
	MLflow       MLflow `conf:"mlflow"`
}

// MLflow is the REST facade for MLflow's clients.
type MLflow struct {
	Listen    string `conf:"listen" usage:"host:port to serve MLflow's REST API on; empty does not serve it"`
	AuthToken string `conf:"auth-token" secret:"true" usage:"token that people's clients show (MLFLOW_TRACKING_TOKEN)"`
	Insecure  bool   `conf:"insecure" default:"false" usage:"serve MLflow's API without a token; for development on a loopback address"`
	UI        string `conf:"ui" usage:"directory of MLflow's user interface (mlflow/server/js/build of its package); empty serves none"`

	Mirror      string        `conf:"mirror" usage:"address of an MLflow server that gets everything the registry holds; empty mirrors nothing"`
	MirrorToken string        `conf:"mirror-token" secret:"true" usage:"bearer token for that server"`
	MirrorLease time.Duration `conf:"mirror-lease" default:"20s" usage:"how long what a killed registry was sending waits for the next one; requests get half of it"`
}

// S3 is the bucket that holds checkpoints and artifacts.
type S3 struct {
	Endpoint   string `conf:"endpoint" usage:"host:port or https:// URL of the S3 server"`
	AccessKey  string `conf:"access-key" secret:"true" usage:"access key"`
	SecretKey  string `conf:"secret-key" secret:"true" usage:"secret key"`
	Bucket     string `conf:"bucket" default:"trainyard" usage:"bucket; made if it does not exist"`
	ColdBucket string `conf:"cold-bucket" usage:"bucket of archived checkpoints; empty means the same, below cold/"`
	Region     string `conf:"region" usage:"region; empty means us-east-1"`
	CA         string `conf:"ca" usage:"PEM file of the S3 server's authority; empty means the system's"`
	Insecure   bool   `conf:"insecure" default:"false" usage:"speak http to the S3 server; only for a trusted network"`
}

// grpc reports whether gRPC is served: nobody can be known without a certificate.
func (c *Config) grpc() bool { return c.TLSCert != "" && c.TLSKey != "" && c.TLSCA != "" }

// coldStore is where archived checkpoints are.
func (c *Config) coldStore(hot *objectstore.Store) (*objectstore.Store, error) {
	if c.S3.ColdBucket == "" || c.bucket() == "" || c.S3.ColdBucket == c.bucket() {
		return hot, nil
	}
	return objectstore.Open(objectstore.Config{Endpoint: c.S3.Endpoint, AccessKey: c.S3.AccessKey, SecretKey: c.S3.SecretKey,
		Bucket: c.S3.ColdBucket, Region: c.S3.Region, CA: c.S3.CA, Insecure: c.S3.Insecure})
}

// bucket is the S3 bucket, "" when artifacts go to a directory.
func (c *Config) bucket() string {
	if c.ArtifactRoot == "" {
		return c.S3.Bucket
	}
	bucket, _ := strings.CutPrefix(c.ArtifactRoot, "s3://")
	if bucket == c.ArtifactRoot {
		return ""
	}
	return strings.TrimSuffix(bucket, "/")
}

// objects opens the artifact root.
func (c *Config) objects() (*objectstore.Store, error) {
	bucket := c.bucket()
	if bucket == "" {
		return objectstore.OpenDirectory(strings.TrimPrefix(c.ArtifactRoot, "file://"))
	}
	return objectstore.Open(objectstore.Config{Endpoint: c.S3.Endpoint, AccessKey: c.S3.AccessKey, SecretKey: c.S3.SecretKey,
		Bucket: bucket, Region: c.S3.Region, CA: c.S3.CA, Insecure: c.S3.Insecure})
}

// Validate checks what single fields cannot tell.
func (c *Config) Validate() []string {
	var problems []string
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		problems = append(problems, fmt.Sprintf("listen: %q is not host:port", c.Listen))
	}
	if !c.grpc() {
		if c.TLSCert+c.TLSKey+c.TLSCA != "" {
			problems = append(problems, "tls-cert, tls-key, tls-ca: set all three to serve gRPC, or none to serve MLflow's API alone")
		} else if c.MLflow.Listen == "" {
			problems = append(problems, "tls-cert, tls-key, tls-ca: set them to serve gRPC, or set mlflow-listen to serve MLflow's API alone")
		}
	}
	problems = append(problems, c.artifactProblems()...)
	if c.MLflow.Listen != "" {
		host, _, err := net.SplitHostPort(c.MLflow.Listen)
		ip := net.ParseIP(host)
		switch {
		case err != nil:
			problems = append(problems, fmt.Sprintf("mlflow-listen: %q is not host:port", c.MLflow.Listen))
		case c.MLflow.Insecure && host != "localhost" && (ip == nil || !ip.IsLoopback()):
			problems = append(problems, "mlflow-insecure: only allowed on a loopback address; set mlflow-auth-token-file for "+c.MLflow.Listen)
		case !c.MLflow.Insecure && c.MLflow.AuthToken == "":
			problems = append(problems, "mlflow-auth-token-file: set it, or set mlflow-insecure for development on a loopback address")
		}
	}
	if c.MLflow.Mirror != "" && c.MLflow.MirrorLease < time.Second {
		problems = append(problems, "mlflow-mirror-lease: at least 1s")
	}
	if c.MaxConns < 8 {
		problems = append(problems, "max-connections: at least 8 are needed: four commit at once, one listens")
	}
	return problems
}

func (c *Config) artifactProblems() []string {
	if scheme, _, ok := strings.Cut(c.ArtifactRoot, "://"); ok && scheme != "s3" && scheme != "file" {
		return []string{fmt.Sprintf("artifact-root: %q is neither s3://BUCKET nor a directory", c.ArtifactRoot)}
	}
	bucket := c.bucket()
	if bucket == "" {
		if dir := strings.TrimPrefix(c.ArtifactRoot, "file://"); !filepath.IsAbs(dir) && strings.HasPrefix(c.ArtifactRoot, "file://") {
			return []string{fmt.Sprintf("artifact-root: %q must name an absolute path", c.ArtifactRoot)}
		}
		return nil
	}
	if strings.Contains(bucket, "/") {
		return []string{fmt.Sprintf("artifact-root: %q must be a bucket alone, without a path", c.ArtifactRoot)}
	}
	var problems []string
	if c.S3.Endpoint == "" {
		problems = append(problems, "s3-endpoint: required for a bucket; set --s3-endpoint, or set --artifact-root to a directory")
	}
	if c.S3.AccessKey == "" || c.S3.SecretKey == "" {
		problems = append(problems, "s3-access-key, s3-secret-key: required for a bucket; set TRAINYARD_REGISTRY_S3_ACCESS_KEY and _S3_SECRET_KEY, or their --...-file flags")
	}
	return problems
}
