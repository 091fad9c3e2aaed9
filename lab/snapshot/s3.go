package snapshot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"strings"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// objects is a store in an S3-compatible object store, below a prefix. An object
// is there whole or not at all by what S3 promises.
type objects struct {
	client *minio.Client
	bucket string
	prefix string // empty, or with a slash at its end
}

// s3Endpoint is where the object store of a URL is.
func s3Endpoint(u *url.URL) (host string, secure bool, region string, err error) {
	q := u.Query()
	for key := range q {
		if key != "endpoint" && key != "region" {
			return "", false, "", fmt.Errorf("%s: expected endpoint and region behind ?", key)
		}
	}
	at, err := url.Parse(cmp.Or(q.Get("endpoint"), "https://s3.amazonaws.com"))
	if err != nil || at.Host == "" || at.Scheme != "https" && at.Scheme != "http" || strings.Trim(at.Path, "/") != "" || at.User != nil {
		return "", false, "", errors.New("endpoint: expected a URL such as https://s3.example.com:9000")
	}
	return at.Host, at.Scheme == "https", q.Get("region"), nil
}

// openBucket opens a store of S3. It asks nobody yet. The keys come from the
// environment, where AWS's own tools have them.
func openBucket(u *url.URL) (*objects, error) {
	host, secure, region, err := s3Endpoint(u)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} {
		if os.Getenv(name) == "" {
			return nil, fmt.Errorf("store %s: %s is not set in the environment: expected the keys of the object store there", u, name)
		}
	}
	client, err := minio.New(host, &minio.Options{Creds: credentials.NewEnvAWS(), Secure: secure, Region: region, MaxRetries: 3})
	if err != nil {
		return nil, fmt.Errorf("store %s: %w", u, err)
	}
	prefix := strings.TrimPrefix(path.Clean("/"+u.Path)+"/", "/")
	return &objects{client: client, bucket: u.Host, prefix: strings.TrimPrefix(prefix, "/")}, nil
}

// told turns an answer into the errors of files.
func (b *objects) told(what string, err error) error {
	if err == nil {
		return nil
	}
	switch r := minio.ToErrorResponse(err); {
	case r.Code == minio.NoSuchKey:
		err = fs.ErrNotExist
	case r.StatusCode == http.StatusPreconditionFailed:
		err = fs.ErrExist
	}
	return fmt.Errorf("s3://%s/%s%s: %w", b.bucket, b.prefix, what, err)
}

func (b *objects) put(ctx context.Context, name, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	// For servers that do not know the condition below.
	if _, err := b.client.StatObject(ctx, b.bucket, b.prefix+name, minio.StatObjectOptions{}); err == nil {
		return b.told(name, fs.ErrExist)
	}
	o := minio.PutObjectOptions{ContentType: "application/octet-stream"}
	o.SetMatchETagExcept("*") // only where there is none
	_, err = b.client.PutObject(ctx, b.bucket, b.prefix+name, f, info.Size(), o)
	return b.told(name, err)
}

func (b *objects) get(ctx context.Context, name string) (io.ReadCloser, error) {
	o, err := b.client.GetObject(ctx, b.bucket, b.prefix+name, minio.GetObjectOptions{})
	if err != nil {
		return nil, b.told(name, err)
	}
	if _, err := o.Stat(); err != nil { // nothing was asked before
		return nil, errors.Join(b.told(name, err), o.Close())
	}
	return o, nil
}

func (b *objects) list(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the listing when we do
	var out []string
	for o := range b.client.ListObjects(ctx, b.bucket, minio.ListObjectsOptions{Prefix: b.prefix}) {
		if o.Err != nil {
			return nil, b.told("", o.Err)
		}
		if name := strings.TrimPrefix(o.Key, b.prefix); name != "" && !strings.Contains(name, "/") {
			out = append(out, name)
		}
	}
	return out, ctx.Err()
}

func (b *objects) remove(ctx context.Context, name string) error {
	return b.told(name, b.client.RemoveObject(ctx, b.bucket, b.prefix+name, minio.RemoveObjectOptions{}))
}
