#!/bin/sh
echo "Hello, $1! Built $(date -u +%Y-%m-%dT%H:%MZ) by image-builder."
