#!/usr/bin/env python3
"""Make clients/smalltalk/lens.png anew: the lens and an attention matrix in a Squeak image, clicked by a real mouse.

Needs tools/smalltalk.sh's Squeak, the packages xvfb, xdotool and imagemagick, and a server with SmolLM2:
  build/glia serve --model FILE --listen 127.0.0.1:50111 &   tools/smalltalk_picture.py [.deps/smalltalk]"""
import os
import subprocess
import sys
import tempfile
import time

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
CLIENT = os.path.join(ROOT, "clients", "smalltalk")
SIZE = (1230, 640)
BOOT = """| s |
s := ReadStream on: (FileStream readOnlyFileNamed: 'bundle.st') contentsOfEntireFile.
SystemChangeNotifier uniqueInstance doSilently: [[s skipSeparators. s atEnd] whileFalse: [
    (s peekFor: (Character value: 33))
        ifTrue: [(Compiler evaluate: s nextChunk logged: false) scanFrom: s]
        ifFalse: [Compiler evaluate: s nextChunk logged: false]]].
(FileStream newFileNamed: 'ready') close!
"""
SCENE = """
| lens v |
Flaps disableGlobalFlaps: false.
OLPCVirtualScreen unInstall.
Display newDepth: 32.
World restoreMorphicDisplay.
World submorphsDo: [:m | m delete].
World color: (Color r: 0.93 g: 0.94 b: 0.96).
lens := InteractiveLens for: (TransformerModel on: LMStudioRESTClient default).
lens analyzeText: 'Rome is in Italy. Paris is in'.
(NSLensMorph on: lens) position: 18@14; openInWorld.
v := AttentionVisualizer show: 'red blue green red blue green red blue' layer: 18 head: 6 of: lens model.
(NSAttentionMorph on: v) position: 936@14; openInWorld!
"""


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.join(ROOT, ".deps", "smalltalk")
    display = ":97"
    screen = subprocess.Popen(["Xvfb", display, "-screen", "0", "1240x650x24"], stderr=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory() as work:
        env = dict(os.environ, HOME=work, SQUEAK_USERDIR=work, SQUEAK_SECUREDIR=os.path.join(work, "secure"), DISPLAY=display)

        def mouse(*words):
            subprocess.run(["xdotool"] + [str(w) for w in words], env=env)

        source = "".join(open(os.path.join(CLIENT, "NeuroScope-%s.st" % p)).read() for p in
                         ("Platform-Squeak", "Wire", "LMStudio", "Core", "Hooks", "Analysis", "Visual", "Morphic")) + SCENE
        for name, text in (("bundle.st", source), ("boot.st", BOOT)):
            with open(os.path.join(work, name), "w") as f:
                f.write(text.replace("\n", "\r"))
        time.sleep(1)
        squeak = subprocess.Popen([os.path.join(ROOT, "tools", "smalltalk_env.sh"), folder, "squeak",
                                   os.path.join(work, "boot.st"), "-vm-display-X11"], env=env)
        try:
            deadline = time.monotonic() + 120
            while not os.path.exists(os.path.join(work, "ready")):
                if time.monotonic() > deadline:
                    sys.exit("Squeak did not come up: is the server there?")
                time.sleep(0.5)
            mouse("search", "--onlyvisible", "--name", ".", "windowmove", 0, 0, "windowsize", *SIZE)
            for x, y in ((300, 400), (850, 343)):  # layer 11 after " Italy"; ablate mlp
                time.sleep(4)
                mouse("mousemove", x, y, "click", 1)
            time.sleep(4)
            mouse("mousemove", 1000, 600)
            time.sleep(1)
            shot = os.path.join(work, "shot.png")
            subprocess.run(["import", "-window", "root", shot], env=env, check=True)
            subprocess.run(["convert", shot, "-crop", "%dx%d+0+0" % SIZE, "+repage", "+dither", "-colors", "64",
                            "-define", "png:compression-level=9", "PNG8:" + os.path.join(CLIENT, "lens.png")], check=True)
        finally:
            squeak.terminate()
            squeak.wait()
            screen.terminate()
            screen.wait()


if __name__ == "__main__":
    main()
