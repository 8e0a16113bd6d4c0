"""In-hospital mortality by logistic regression: python logistic_regression_ihm.py results

The inputs are the mean and the last value of each of the 76 columns over the first 48 hours.
"""

import sys

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from flexcare_model.data.dataset import load_task


def table(output, split):
    data = load_task(output, "in_hospital_mortality", split, modalities=["time_series"])
    series = data.batch(range(len(data))).ts.numpy()  # (samples, 48, 76)
    return np.hstack([series.mean(axis=1), series[:, -1]]), data.labels.numpy()


output = sys.argv[1] if len(sys.argv) > 1 else "results"
model = LogisticRegression(C=0.01, max_iter=1000).fit(*table(output, "train"))
inputs, labels = table(output, "test")
print(f"AUROC on {len(labels)} test samples: {roc_auc_score(labels, model.predict_proba(inputs)[:, 1]):.3f}")
