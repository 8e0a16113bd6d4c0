-- Does the radiograph belong to another patient, or to another study than the sample names?
CREATE OR REPLACE TEMP VIEW checked AS
SELECT task, sample_id, dicom_id, subject_id, study_id FROM samples WHERE dicom_id IS NOT NULL;

SELECT checked.*, radiographs.subject_id AS patient_of_image, radiographs.study_id AS study_of_image
FROM checked LEFT JOIN radiographs USING (dicom_id)
WHERE radiographs.subject_id IS DISTINCT FROM checked.subject_id
   OR radiographs.study_id IS DISTINCT FROM checked.study_id;
