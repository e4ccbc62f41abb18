"""The Space of this module: a form to try it out."""

import evaluate
from evaluate.utils import launch_gradio_widget

if __name__ == "__main__":
    launch_gradio_widget(evaluate.load("./anomaly_image_scores.py"))
