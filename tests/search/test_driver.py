"""A search and its ledger in step: the same again, and nothing lost or repeated by kills."""

import os
import random
import signal
import subprocess
import sys
import time

import psutil
