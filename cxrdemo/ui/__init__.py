"""The viewer in the browser. Nothing outside this folder and `app.py` imports gradio."""
