#!/usr/bin/env bash
# apache-beam 2.77.0 and PySpark 4.3.0 in one process, seen on 2026-11-29 with Python 3.11 and Java 17.
#
# Before Beam's client for gs:// looks for credentials, it calls socket.setdefaulttimeout(60). The limit stays, for the
# whole process. PySpark opens a socket for each thread that calls into Java, and the call that runs a job waits in this
# socket until the job ends. So a program that has read gs:// through Beam's FileSystems, and then runs Spark jobs in
# threads, loses each job that takes longer than a minute. Threads that called Java before have no limit.
#
# Output seen:
#   default timeout: None, then 60.0
#   a call of 62 seconds in a thread from before: done
#   a call of 62 seconds in a new thread: Py4JError
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q apache-beam==2.77.0 pyspark==4.3.0 google-auth==2.40.3 google-auth-httplib2==0.2.0 \
  google-apitools==0.5.35
cat > "$work/show.py" <<'PY'
import logging
import os
import socket
import threading

logging.disable(logging.CRITICAL)
os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
from apache_beam.internal.gcp.auth import get_service_credentials
from apache_beam.options.pipeline_options import PipelineOptions
from pyspark.sql import SparkSession

spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
java = spark.sparkContext._jvm.java.lang.Thread
before = socket.getdefaulttimeout()
outcomes = {}


def call(name, gate):
    java.sleep(1)
    gate.wait()
    try:
        java.sleep(62_000)
        outcomes[name] = "done"
    except Exception as error:
        outcomes[name] = type(error).__name__


early_gate, new_gate = threading.Event(), threading.Event()
early = threading.Thread(target=call, args=("early", early_gate))
early.start()
early.join(5)
get_service_credentials(PipelineOptions(["--project=p"]))
new = threading.Thread(target=call, args=("new", new_gate))
new.start()
early_gate.set()
new_gate.set()
early.join()
new.join()
print(f"default timeout: {before}, then {socket.getdefaulttimeout()}")
print(f"a call of 62 seconds in a thread from before: {outcomes['early']}")
print(f"a call of 62 seconds in a new thread: {outcomes['new']}")
spark.stop()
PY
# Without a metadata server, the search for credentials ends at once.
NO_GCE_CHECK=true GOOGLE_APPLICATION_CREDENTIALS= "$work/venv/bin/python" "$work/show.py" 2> "$work/log" | tee "$work/seen" \
  || { tail -20 "$work/log"; exit 1; }
diff "$work/seen" - <<'SEEN'
default timeout: None, then 60.0
a call of 62 seconds in a thread from before: done
a call of 62 seconds in a new thread: Py4JError
SEEN
